//! What each chain costs a request: one worker on one processor, everything else on another.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::chains::{Chain, WEIGHT};
use super::table;
use super::{Options, judged, median, us, wrk};
use crate::envoy::{Envoy, EnvoyOptions};
use crate::load::{Answer, Client, USER, ask_each};
use crate::mesh::RolloutFile;
use crate::ports::Port;
use crate::process::{Launch, Process};
use crate::service::Service;
use crate::{Error, artifacts, wait};

/// The processor of the proxies. Only one of them is busy at a time.
const PROXY_CPU: u32 = 0;
/// The processor of the load generator, the upstream and the service.
const REST_CPU: u32 = 1;
/// Seconds before each measurement that do not count.
const WARM_UP: u64 = 1;
/// The host of wrk's requests.
const HOST: &str = "shop.example.com";

/// Most of CPU time a request above native that the filter may take, in microseconds.
const FILTER_CPU_US: f64 = 8.0;
/// Least of native's throughput that the filter may reach.
const FILTER_RATE: f64 = 0.82;

/// One chain, medians of its runs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    chain: &'static str,
    requests_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    cpu_us_per_request: f64,
    /// Above the native chain.
    cpu_us_above_native: f64,
    /// Of the native chain's throughput.
    throughput_of_native: f64,
}

struct Stand {
    chain: Chain,
    envoy: Envoy,
    runs: Vec<Sample>,
}

struct Sample {
    run: wrk::Run,
    cpu: Duration,
}

pub(super) async fn measure(seconds: u64, repeats: usize) -> Result<Vec<Row>, Error> {
    wrk::ensure()?;
    let scratch = scratch()?;
    let (upstream, _upstream) = upstream(scratch.path()).await?;
    let mut service = Service::stopped_in(scratch.path())?;
    service.pin(REST_CPU);
    service.up().await?;
    apply(&service).await?;
    let mut stands = Vec::new();
    for chain in Chain::ALL {
        let mut config = chain.config()?;
        config.set_cluster("knhk", service.addresses().grpc)?;
        config.set_cluster("stable", upstream)?;
        config.set_cluster("canary", upstream)?;
        let envoy = Envoy::start(
            config,
            EnvoyOptions {
                concurrency: 1,
                cpu: Some(PROXY_CPU),
            },
        )
        .await?;
        works(chain, &envoy).await?;
        stands.push(Stand {
            chain,
            envoy,
            runs: Vec::new(),
        });
    }
    for _ in 0..repeats.max(1) {
        for stand in &mut stands {
            wrk::run(stand.envoy.address(), WARM_UP, REST_CPU).await?;
            let before = stand.envoy.process().cpu_time()?;
            let run = wrk::run(stand.envoy.address(), seconds.max(1), REST_CPU).await?;
            let cpu = stand.envoy.process().cpu_time()?.saturating_sub(before);
            stand.runs.push(Sample { run, cpu });
        }
    }
    Ok(rows(&stands))
}

/// A directory on the disk of the build, since the system's temporary one may be memory.
pub(super) fn scratch() -> Result<tempfile::TempDir, Error> {
    let target = artifacts::root().join("target");
    tempfile::Builder::new()
        .prefix("b-")
        .tempdir_in(&target)
        .map_err(Error::io(format!("{}", target.display())))
}

async fn upstream(logs: &std::path::Path) -> Result<(std::net::SocketAddr, (Process, Port)), Error> {
    let port = Port::reserve()?;
    let program = std::env::current_exe()
        .map_err(Error::io("this program"))?
        .with_file_name("knhk-upstream");
    let process = Launch::new("the upstream", logs.join("upstream.log"), program)
        .args(["--listen", &port.address().to_string(), "--version", "v1"])
        .on_cpu(Some(REST_CPU))
        .start()?;
    wait::until("the upstream", wait::SOON, || async {
        Client::new(port.address())
            .ask(&crate::load::Ask::get(HOST, "/"))
            .await
    })
    .await?;
    Ok((port.address(), (process, port)))
}

async fn apply(service: &Service) -> Result<(), Error> {
    let slos = json!([
        { "metric": "request-success-rate", "min": 99 },
        { "metric": "request-duration", "quantile": 0.99, "max": "250ms" },
    ]);
    let spec = RolloutFile::at(WEIGHT.into())
        .with("match", json!({ "hosts": [HOST], "pathPrefix": "/" }))
        .analysed("slos", slos)
        .with("autoRollback", json!(false));
    let file = spec.write(service)?;
    service
        .cli()?
        .json(&[
            "rollout".as_ref(),
            "apply".as_ref(),
            "-f".as_ref(),
            file.as_os_str(),
        ])
        .await?;
    Ok(())
}

/// A chain is measured only when it does its work: it answers, ours decide by the service's snapshot, and those that
/// record say where.
async fn works(chain: Chain, envoy: &Envoy) -> Result<(), Error> {
    let decides = !matches!(chain, Chain::Native | Chain::Empty);
    wait::until(&format!("{} to work", chain.name()), wait::SOON, || async {
        let asks = (0..100)
            .map(|user| crate::load::Ask::get(HOST, "/").header(USER, &format!("user-{user}")))
            .collect();
        let answers = ask_each(envoy.address(), 4, asks).await?;
        let canaries = answers
            .iter()
            .filter(|answer| answer.seen("variant") == Some("canary"))
            .count();
        let recorded = |answer: &Answer| match chain {
            Chain::CheckAndRecord => answer.seen("receipt").is_some(),
            Chain::ProcessAndRecord => answer.header("x-knhk-receipt").is_some(),
            _ => true,
        };
        let good = answers
            .iter()
            .all(|answer| answer.status == 200 && recorded(answer));
        // 100 users at 20 %: none at all, or all, is no split.
        if good && (!decides || (1..60).contains(&canaries)) {
            Ok(())
        } else {
            Err(format!("good: {good}, canaries: {canaries} of 100"))
        }
    })
    .await
}

fn rows(stands: &[Stand]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for stand in stands {
        let of = |value: &dyn Fn(&Sample) -> f64| median(stand.runs.iter().map(value).collect());
        let requests_per_second = of(&|sample| sample.run.per_second);
        #[allow(clippy::cast_precision_loss)]
        let cpu_us_per_request = of(&|sample| us(sample.cpu) / sample.run.requests.max(1) as f64);
        let native = rows.first();
        rows.push(Row {
            chain: stand.chain.name(),
            requests_per_second,
            p50_us: of(&|sample| us(sample.run.p50)),
            p99_us: of(&|sample| us(sample.run.p99)),
            cpu_us_per_request,
            cpu_us_above_native: cpu_us_per_request
                - native.map_or(cpu_us_per_request, |row| row.cpu_us_per_request),
            throughput_of_native: requests_per_second
                / native.map_or(requests_per_second, |row| row.requests_per_second),
        });
    }
    rows
}

fn table_of(rows: &[Row]) -> String {
    let shown: Vec<[String; 7]> = rows
        .iter()
        .map(|row| {
            [
                row.chain.to_owned(),
                format!("{:.0}", row.requests_per_second),
                format!("{:.0}", row.p50_us),
                format!("{:.0}", row.p99_us),
                format!("{:.1}", row.cpu_us_per_request),
                format!("{:+.1}", row.cpu_us_above_native),
                format!("{:.2}", row.throughput_of_native),
            ]
        })
        .collect();
    table::table(
        [
            "chain",
            "requests/s",
            "p50 us",
            "p99 us",
            "CPU us a request",
            "above native",
            "of native's requests/s",
        ],
        &shown,
    )
}

pub(super) fn table(rows: &[Row], options: &Options) -> String {
    let filter = rows.iter().find(|row| row.chain == Chain::Filter.name());
    let targets = filter.map_or(String::new(), |row| {
        format!(
            "\nThe filter: at most {FILTER_CPU_US} us above native: {}; at least {FILTER_RATE} of its requests/s: {}.",
            judged(row.cpu_us_above_native <= FILTER_CPU_US),
            judged(row.throughput_of_native >= FILTER_RATE)
        )
    });
    format!(
        "\nEnvoy with one worker on one processor; wrk with {} connections, the upstream and the service on another; HTTP/1.1\nkeep-alive; medians of {} runs of {} s in turn.\n\n{}\n{targets}",
        wrk::CONNECTIONS,
        options.repeats,
        options.seconds,
        table_of(rows)
    )
}
