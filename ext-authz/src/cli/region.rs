//! `knhk region`: how the other regions are doing, and what to do about one that shows two histories.

use std::time::Duration;

use clap::Subcommand;
use reqwest::Method;

use super::client::Client;
use super::{Failure, OutputArgs, ServerArgs, output};
use crate::api::{Cleared, PeerInfo, RegionsInfo};

#[derive(Debug, Subcommand)]
pub(crate) enum RegionVerb {
    /// Show what each peer has acknowledged, how far it lags, and what is held here of its log.
    Status {
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Clear the alarm of a region that showed two histories of its log, once somebody has looked at the evidence. Nothing of it
    /// is removed.
    Clear {
        /// The region.
        peer: String,
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub(crate) async fn run(verb: RegionVerb) -> Result<(), Failure> {
    match verb {
        RegionVerb::Status { server, output } => {
            let client = Client::new(&server).await?;
            let info: RegionsInfo = client.json(client.request(Method::GET, "/v1/regions")).await?;
            output::print(output, &info, || text(&info))
        }
        RegionVerb::Clear { peer, server, output } => {
            let client = Client::new(&server).await?;
            let request = client.request(Method::POST, &format!("/v1/regions/{peer}/clear"));
            let cleared: Cleared = client.json(request).await?;
            output::print(output, &cleared, || {
                if cleared.was_alarmed {
                    format!("{peer}: cleared; the evidence stays, and its log is taken again")
                } else {
                    format!("{peer}: there was nothing to clear")
                }
            })
        }
    }
}

fn text(info: &RegionsInfo) -> String {
    let mut lines = vec![format!(
        "{}: {} entries signed, {} of them held by {} regions",
        info.region, info.signed, info.committed, info.quorum
    )];
    if let Some(stopped) = &info.stopped {
        lines.push(format!("  SIGNS NOTHING: {}", stopped.reason));
    }
    let rows = info.peers.iter().map(row);
    let header = [
        "PEER",
        "ACKNOWLEDGED",
        "LAG",
        "LAST SUCCESS",
        "BREAKER",
        "HELD HERE",
        "STATE",
    ];
    lines.push(output::table(header, rows));
    for peer in &info.peers {
        for view in &peer.mirror.split_views {
            lines.push(format!(
                "  {}: TWO HISTORIES of its log: of its first {} entries two roots are signed (checkpoints of {} and {} entries), found {}; look at data/mirrors/{}/mirror/evidence, then `knhk region clear {}`",
                peer.region, view.size, view.held, view.shown, view.seen, peer.region, peer.region
            ));
        }
    }
    lines.join("\n")
}

fn row(peer: &PeerInfo) -> [String; 7] {
    let lag = match peer.lag_entries {
        0 => "none".to_owned(),
        entries => format!("{entries} entries, {}", seconds(peer.lag_ms)),
    };
    let last = peer
        .last_success_ms_ago
        .map_or_else(|| "none yet".to_owned(), |ms| format!("{} ago", seconds(ms)));
    let state = if peer.mirror.is_alarmed {
        "TWO HISTORIES".to_owned()
    } else {
        match (&peer.last_error, peer.rollouts_behind, peer.flags_behind) {
            (Some(error), ..) => error.reason.clone(),
            (None, 0, false) => "ok".to_owned(),
            (None, 0, true) => "flags not told yet".to_owned(),
            (None, behind, false) => format!("{behind} rollouts not told yet"),
            (None, behind, true) => format!("{behind} rollouts and flags not told yet"),
        }
    };
    [
        peer.region.clone(),
        peer.acknowledged.to_string(),
        lag,
        last,
        peer.breaker.clone(),
        peer.mirror.held.to_string(),
        state,
    ]
}

fn seconds(ms: u64) -> String {
    let duration = Duration::from_millis(ms);
    if ms < 1_000 {
        return humantime::format_duration(duration).to_string();
    }
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}
