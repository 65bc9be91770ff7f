//! A child process that never outlives us.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::{Error, wait};

/// Lines of a log that are shown when a process ends by itself or a test fails.
const LOG_TAIL: usize = 25;

/// A running program in a process group of its own. It is killed on drop, and by the kernel if we die without dropping.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    pid: Pid,
    killed: bool,
}

/// What to start.
#[derive(Debug)]
pub struct Launch {
    name: String,
    log: PathBuf,
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
    cpu: Option<u32>,
    namespace: Option<PathBuf>,
}

impl Launch {
    /// `name` is for messages; `log` takes stdout and stderr, appended.
    pub fn new(name: &str, log: PathBuf, program: impl Into<OsString>) -> Self {
        Self {
            name: name.to_owned(),
            log,
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            cpu: None,
            namespace: None,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, arguments: I) -> Self {
        self.arguments
            .extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Adds an option whose value is a path.
    #[must_use]
    pub fn arg_path(mut self, option: &str, path: &Path) -> Self {
        self.arguments.extend([option.into(), path.into()]);
        self
    }

    /// Sets variables beside those that it inherits.
    #[must_use]
    pub fn env(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.environment.extend(variables);
        self
    }

    /// Pins it to one processor, counted from 0.
    #[must_use]
    pub fn on_cpu(mut self, cpu: Option<u32>) -> Self {
        self.cpu = cpu;
        self
    }

    /// Starts it in the network namespace of this file.
    #[must_use]
    pub fn in_namespace(mut self, namespace: Option<&Path>) -> Self {
        self.namespace = namespace.map(Path::to_owned);
        self
    }

    /// Starts it. `setpriv`, `nsenter` and `taskset` (util-linux) replace themselves by the program, so its pid is the child's.
    ///
    /// The kernel's death signal follows the thread that starts the child: start from a thread that lives as long as the
    /// child should, not from a blocking task.
    pub fn start(self) -> Result<Process, Error> {
        let what = format!("{} ({})", self.name, self.program.display());
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(Error::io(format!("{}", self.log.display())))?;
        let errors = log
            .try_clone()
            .map_err(Error::io(format!("{}", self.log.display())))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        if let Some(namespace) = &self.namespace {
            command.args(["nsenter", &format!("--net={}", namespace.display()), "--"]);
        }
        if let Some(cpu) = self.cpu {
            command.args(["taskset", "--cpu-list", &cpu.to_string()]);
        }
        command
            .arg(&self.program)
            .args(&self.arguments)
            .envs(self.environment)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0);
        let child = command.spawn().map_err(Error::io(what))?;
        let pid = Pid::from_child(&child);
        Ok(Process {
            name: self.name,
            log: self.log,
            child,
            pid,
            killed: false,
        })
    }
}

impl Process {
    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        read_lossy(&self.log)
    }

    /// Fails if it has ended.
    pub fn check(&mut self) -> Result<(), Error> {
        match self.child.try_wait().map_err(Error::io(self.name.clone()))? {
            None => Ok(()),
            Some(status) => Err(Error::Ended {
                name: self.name.clone(),
                status: status.to_string(),
                log: self.tail(),
            }),
        }
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&self) -> Result<(), Error> {
        kill_process(self.pid, Signal::TERM)
            .map_err(|errno| Error::io(format!("SIGTERM to {}", self.name))(errno.into()))
    }

    /// Stops it where it stands (SIGSTOP), until the answer is dropped: it answers nobody, and its connections stay.
    pub async fn freeze(&self) -> Result<Frozen<'_>, Error> {
        kill_process(self.pid, Signal::STOP)
            .map_err(|errno| Error::io(format!("SIGSTOP to {}", self.name))(errno.into()))?;
        let frozen = Frozen(self);
        // A thread that is on a processor goes on until it is told.
        wait::until(&format!("{} to stand still", self.name), wait::SOON, || async {
            let path = format!("/proc/{}/task", self.pid());
            let tasks = std::fs::read_dir(path).map_err(|error| error.to_string())?;
            let moving = tasks
                .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok())
                .filter(|stat| {
                    !stat
                        .rsplit_once(") ")
                        .is_some_and(|(_, rest)| rest.starts_with('T'))
                })
                .count();
            if moving == 0 {
                Ok(())
            } else {
                Err(format!("{moving} threads run"))
            }
        })
        .await?;
        Ok(frozen)
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self, deadline: Duration) -> Result<ExitStatus, Error> {
        let (name, child) = (format!("the end of {}", self.name), &mut self.child);
        wait::until(&name, deadline, || {
            let seen = match child.try_wait() {
                Ok(Some(status)) => Ok(status),
                Ok(None) => Err("it runs".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            async { seen }
        })
        .await
    }

    /// Ends it at once (SIGKILL) with all its children, and waits for that.
    pub fn kill(mut self) {
        self.kill_group();
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> Result<u64, Error> {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(&path).map_err(Error::io(path.clone()))?;
        status
            .lines()
            .find_map(|line| {
                line.strip_prefix("VmRSS:")?
                    .trim()
                    .strip_suffix("kB")?
                    .trim()
                    .parse::<u64>()
                    .ok()
            })
            .map(|kibibytes| kibibytes * 1024)
            .ok_or_else(|| Error::Contract {
                what: path,
                reason: "no VmRSS".to_owned(),
            })
    }

    /// Processor time used so far, user and system, of all its threads.
    pub fn cpu_time(&self) -> Result<Duration, Error> {
        // schedstat has nanoseconds, a thread a file; stat has only clock ticks of 10 ms.
        let path = format!("/proc/{}/task", self.pid());
        let tasks = std::fs::read_dir(&path).map_err(Error::io(path.clone()))?;
        let nanoseconds = tasks
            .filter_map(|task| {
                std::fs::read_to_string(task.ok()?.path().join("schedstat"))
                    .ok()?
                    .split(' ')
                    .next()?
                    .parse::<u64>()
                    .ok()
            })
            .sum();
        Ok(Duration::from_nanos(nanoseconds))
    }

    fn kill_group(&mut self) {
        // Once only: afterwards the number may belong to somebody else. The group may be gone already, which is as well.
        if std::mem::replace(&mut self.killed, true) {
            return;
        }
        let _ = kill_process_group(self.pid, Signal::KILL);
        let _ = self.child.wait();
    }

    fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
    }
}

/// A process that stands still until this is dropped.
#[derive(Debug)]
#[must_use = "the process goes on when this is dropped"]
pub struct Frozen<'a>(&'a Process);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = kill_process(self.0.pid, Signal::CONT);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_group();
        if std::thread::panicking() {
            eprintln!("--- the end of the log of {}\n{}\n---", self.name, self.tail());
        }
    }
}

fn read_lossy(path: &Path) -> String {
    std::fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alive(pid: u32) -> bool {
        // The state stands after the name in parentheses; a zombie is over already.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    }

    #[test]
    fn it_is_killed_on_drop_with_its_children() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let log = directory.path().join("log");
        let process = Launch::new("sh", log.clone(), "sh")
            .args(["-c", "sleep 600 & echo $!; wait"])
            .start()
            .expect("sh starts");
        let grandchild = loop {
            if let Ok(pid) = process.log().trim().parse::<u32>() {
                break pid;
            }
            std::thread::yield_now();
        };
        assert!(alive(process.pid()) && alive(grandchild));
        let pid = process.pid();
        drop(process);
        assert!(!alive(pid));
        while alive(grandchild) {
            std::thread::yield_now();
        }
    }

    #[tokio::test]
    async fn one_that_ends_by_itself_is_reported_with_its_log() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut process = Launch::new("sh", directory.path().join("log"), "sh")
            .args(["-c", "echo no such thing; exit 3"])
            .start()
            .expect("sh starts");
        process.ended(wait::SOON).await.expect("it ends");
        let error = process.check().expect_err("ended").to_string();
        assert!(
            error.contains("exit status: 3") && error.contains("no such thing"),
            "{error}"
        );
    }
}
