//! A proxy before a peer that injects faults and counts requests.
