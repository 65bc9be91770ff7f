mod crashes;
mod faults;
mod keys;
mod outage;
mod receipts;
mod rig;
mod rotation;
mod service;
