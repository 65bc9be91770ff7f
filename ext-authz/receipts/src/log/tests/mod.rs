mod crashes;
mod faults;
mod receipts;
mod service;
