//! The shipped trial, looked at after each report.

use crate::contender::Contender;
use crate::scenarios::plan;
use crate::stream::{self, Report};
use crate::traffic::Request;
use knhk_promotion::sequential::{Decides, Decision, Patience, Trial, TrialEvent};

pub(crate) struct Knhk {
    tolerance: f64,
    trial: Trial,
}

impl Knhk {
    /// With this tolerance in percentage points, and `alpha` 0.01.
    pub(crate) fn new(tolerance: f64) -> Self {
        let slos = "{ metric: request-success-rate, min: 99.5 }, { metric: request-duration, quantile: 0.9, max: 120ms }";
        Self {
            tolerance,
            trial: Trial::new(plan(0.01, tolerance, slos), Decides::SloAndStable),
        }
    }
}

impl Contender for Knhk {
    fn name(&self) -> String {
        format!("KNHK, tolerance {} %", self.tolerance)
    }

    fn rolls_back(&mut self, requests: &[Request], _tick: u32) -> bool {
        let mut report = Report::default();
        for request in requests {
            let bad = u8::from(request.failed) | u8::from(request.is_slow()) << 1;
            report.add(if request.is_canary {
                let group = request.group;
                stream::Request::Canary { group, bad }
            } else {
                stream::Request::Stable { bad }
            });
        }
        self.trial = self
            .trial
            .clone()
            .after(&TrialEvent::Finished(Box::new(report.send())));
        self.trial.verdict(Patience::Left).decision == Decision::RollBack
    }
}
