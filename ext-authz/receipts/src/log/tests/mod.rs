mod crashes;
mod faults;

mod receipts;
mod rig;

mod service;
