//! Network namespaces with a cable between each two of them: what is cut here the kernel cuts.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::peer::NotRun;
use crate::process::{Launch, Process};
use crate::wait;

/// The hosts' addresses are this with their number, from 1 on, at its end.
const NET: [u8; 3] = [10, 77, 0];

/// What namespaces are called where they cannot be had.
const PEER: &str = "network namespaces";

/// Hosts that have nothing in common but cables. Everything is gone on drop.
#[derive(Debug)]
pub struct Network {
    /// A namespace lives as long as a process in it.
    hosts: Vec<Process>,
    _logs: TempDir,
}

impl Network {
    /// So many hosts, each with a cable to each other one. Needs root and `ip`.
    pub async fn of(count: usize) -> Result<Self, NotRun> {
        let logs = tempfile::tempdir().map_err(NotRun::because(PEER))?;
        let mut hosts = Vec::new();
        for at in 0..count {
            let log = logs.path().join(format!("{at}.log"));
            let launch = Launch::new("a namespace", log, "unshare").args(["--net", "sleep", "infinity"]);
            hosts.push(launch.start().map_err(NotRun::because(PEER))?);
        }
        let mut network = Self { hosts, _logs: logs };
        for at in 0..count {
            network.until_apart(at).await?;
            network.inside(at, &["ip", "link", "set", "lo", "up"])?;
            let address = format!("{}/32", network.address(at));
            network.inside(at, &["ip", "address", "add", &address, "dev", "lo"])?;
        }
        for near in 0..count {
            for far in near + 1..count {
                network.lay(near, far)?;
            }
        }
        Ok(network)
    }

    /// How many hosts there are.
    pub fn count(&self) -> usize {
        self.hosts.len()
    }

    /// A host's address, which the others reach it at.
    pub fn address(&self, at: usize) -> IpAddr {
        let [a, b, c] = NET;
        let number = u8::try_from(at + 1).unwrap_or(u8::MAX);
        Ipv4Addr::new(a, b, c, number).into()
    }

    /// The file that stands for a host's namespace.
    pub fn namespace(&self, at: usize) -> PathBuf {
        format!("/proc/{}/ns/net", self.hosts[at].pid()).into()
    }

    /// Nothing goes through between these two any more: connections stay, and hear nothing.
    pub fn cut(&self, near: usize, far: usize) -> Result<(), NotRun> {
        self.inside(near, &["ip", "link", "set", &cable(far), "down"])
    }

    /// What the first one sends to the second one is lost; the other direction is whole.
    pub fn lose(&self, from: usize, to: usize) -> Result<(), NotRun> {
        let to = format!("{}/32", self.address(to));
        self.inside(from, &["ip", "route", "replace", "blackhole", &to])
    }

    /// Everything goes through again, in both directions.
    pub fn mend(&self, near: usize, far: usize) -> Result<(), NotRun> {
        for (at, other) in [(near, far), (far, near)] {
            self.inside(at, &["ip", "link", "set", &cable(other), "up"])?;
        }
        for (at, other) in [(near, far), (far, near)] {
            let (to, from) = (
                format!("{}/32", self.address(other)),
                self.address(at).to_string(),
            );
            let route = ["ip", "route", "replace", &to, "dev", &cable(other), "src", &from];
            self.inside(at, &route)?;
        }
        Ok(())
    }

    /// The process is started in our namespace, and leaves it.
    async fn until_apart(&mut self, at: usize) -> Result<(), NotRun> {
        let ours = std::fs::read_link("/proc/self/ns/net").map_err(NotRun::because(PEER))?;
        let (namespace, host) = (self.namespace(at), &mut self.hosts[at]);
        let apart = wait::until("a namespace", wait::SOON, || {
            let ended = host.check();
            let is_apart = std::fs::read_link(&namespace).is_ok_and(|it| it != ours);
            async move {
                match ended {
                    Err(error) => Ok(Err(error)),
                    Ok(()) if is_apart => Ok(Ok(())),
                    Ok(()) => Err("it is not made yet".to_owned()),
                }
            }
        });
        apart.await.flatten().map_err(NotRun::because(PEER))
    }

    fn lay(&self, near: usize, far: usize) -> Result<(), NotRun> {
        let (here, there, namespace) = (cable(far), cable(near), self.namespace(far));
        let namespace = namespace.display().to_string();
        let pair = [
            "ip", "link", "add", &here, "type", "veth", "peer", "name", &there, "netns", &namespace,
        ];
        self.inside(near, &pair)?;
        self.mend(near, far)
    }

    fn inside(&self, at: usize, command: &[&str]) -> Result<(), NotRun> {
        let output = Command::new("nsenter")
            .arg(format!("--net={}", self.namespace(at).display()))
            .arg("--")
            .args(command)
            .output()
            .map_err(NotRun::because(PEER))?;
        if output.status.success() {
            return Ok(());
        }
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(NotRun::new(
            PEER,
            format!("`{}`: {why}: run as root", command.join(" ")),
        ))
    }
}

/// What the end of the cable to a host is called.
fn cable(to: usize) -> String {
    format!("to{to}")
}
