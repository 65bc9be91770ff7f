mod crashes;
mod faults;
mod service;
