//! The evaluator of flagd itself (`PyPI`: `openfeature-flagd-core`), asked many times over one process.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::NotRun;
use crate::artifacts;

const PEER: &str = "flagd";

/// The evaluator, which ends when this is dropped.
#[derive(Debug)]
pub struct Flagd {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// A flag file, and what is asked of it.
#[derive(Clone, Debug, Serialize)]
pub struct Questions {
    /// The file's text.
    pub flags: String,
    /// What the evaluator's clock says, in seconds since 1970.
    pub timestamp: i64,
    /// One evaluation each.
    pub asks: Vec<Ask>,
}

/// One evaluation.
#[derive(Clone, Debug, Serialize)]
pub struct Ask {
    /// The flag's key.
    pub flag: String,
    /// `boolean`, `string`, `integer`, `float` or `object`.
    #[serde(rename = "type")]
    pub asked: &'static str,
    /// The context, `targetingKey` included.
    pub context: Map<String, Value>,
}

/// What the evaluator says of one evaluation.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Answer {
    /// Null where the caller's default holds.
    pub variant: Option<String>,
    /// Null where the caller's default holds.
    #[serde(default)]
    pub value: Value,
    /// flagd's reason.
    pub reason: String,
    /// flagd's code of an error.
    pub code: Option<String>,
    /// The flag's and the file's metadata.
    #[serde(default)]
    pub metadata: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Said {
    Answers(Vec<Answer>),
    Refused { refused: String },
}

impl Flagd {
    /// Starts the evaluator, which is installed on first use.
    pub fn start() -> Result<Self, NotRun> {
        let peers = artifacts::root().join("tests/peers");
        let output = Command::new(peers.join("flagd.sh"))
            .output()
            .map_err(NotRun::because(PEER))?;
        if !output.status.success() {
            return Err(NotRun::new(PEER, String::from_utf8_lossy(&output.stderr).trim()));
        }
        let mut child = Command::new(String::from_utf8_lossy(&output.stdout).trim())
            .arg(peers.join("flagd/evaluate.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(NotRun::because(PEER))?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(questions), Some(answers)) => Ok(Self {
                child,
                questions,
                answers: BufReader::new(answers),
            }),
            _ => Err(NotRun::new(PEER, "it was started without pipes")),
        }
    }

    /// What the evaluator says: an answer to each question, or why it refuses the file.
    pub fn ask(&mut self, questions: &Questions) -> Result<Vec<Answer>, String> {
        let failed = |error: &dyn std::fmt::Display| format!("the evaluator ended: {error}");
        let line = serde_json::to_string(questions).map_err(|error| failed(&error))?;
        writeln!(self.questions, "{line}").map_err(|error| failed(&error))?;
        let mut answer = String::new();
        self.answers
            .read_line(&mut answer)
            .map_err(|error| failed(&error))?;
        match serde_json::from_str(&answer).map_err(|error| failed(&error))? {
            Said::Answers(answers) => Ok(answers),
            Said::Refused { refused } => Err(refused),
        }
    }
}

impl Drop for Flagd {
    fn drop(&mut self) {
        // It may have ended by itself, which is what is wanted.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
