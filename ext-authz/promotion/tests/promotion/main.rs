//! A rollout from the outside: specification, state machine, analysis.

mod apply;
mod commands;
mod false_alarms;
mod liars;
mod life;
mod properties;
mod run;
mod spec;
mod state;
mod traffic;
mod weighing;
