//! A rollout from the outside: specification, state machine, analysis.

mod apply;
mod commands;
mod confidence;
mod false_alarms;
mod gates;
mod liars;
mod life;
mod properties;
mod reports;
mod run;
mod scenarios;
mod sequential;
mod spec;
mod staging;
mod state;
mod stream;
mod traffic;
mod weighing;
