//! Which version serves a request: a pure function of policy and request facts.
