//! Requests drawn at random, one by one and in order, as reports that a trial takes.

use knhk_promotion::sequential::{Block, GROUPS, Group, MAX_ORDERED, Outcome, Outcomes, Tallies};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// How many metrics a request can be bad in.
pub(crate) const METRICS: usize = 2;

/// What is true of the requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct World {
    /// The canary's share of the requests.
    pub(crate) weight: f64,
    /// The chance that a request of stable is bad in a metric, independently in each.
    pub(crate) stable: f64,
    /// The canary's.
    pub(crate) canary: f64,
    /// Outages that both versions share.
    pub(crate) shocks: Option<Shocks>,
    /// Who is not like the others.
    pub(crate) users: Users,
}

/// A dependency of both versions fails now and then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shocks {
    /// The chance that one begins with a request.
    pub(crate) begins: f64,
    /// The chance that it ends with a request.
    pub(crate) ends: f64,
    /// The chance that a request is bad while it lasts.
    pub(crate) bad: f64,
}

/// Who sends the canary's requests.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Users {
    /// So many that each request is of another.
    Many,
    /// And one whose requests are bad in every metric: that share of the canary's.
    OneHeavy(f64),
    /// The same, where the key is the request, so that each of them is of another group.
    OneHeavyInAllGroups(f64),
    /// And whoever fails on the canary fails this many times in a row, and the next only then.
    Retrying(u32),
}

/// An endless stream of requests.
pub(crate) struct Stream {
    world: World,
    rng: StdRng,
    in_shock: bool,
    retries: u32,
    group: u8,
}

/// One request; bit i of `bad` says that it is bad in metric i.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Request {
    /// Served by stable.
    Stable { bad: u8 },
    /// Served by the canary, by a key of this group.
    Canary { group: u8, bad: u8 },
}

/// Bad in every metric.
const ALL_BAD: u8 = (1 << METRICS) - 1;

impl Stream {
    pub(crate) fn new(world: World, seed: u64) -> Self {
        Self {
            world,
            rng: StdRng::seed_from_u64(seed),
            in_shock: false,
            retries: 0,
            group: 0,
        }
    }

    /// From now on the canary has this share of the requests.
    pub(crate) fn weigh(&mut self, share: f64) {
        self.world.weight = share;
    }

    pub(crate) fn next(&mut self) -> Request {
        let world = self.world;
        let shocked = self.shock();
        if !self.chance(world.weight) {
            let bad = self.bad(shocked.unwrap_or(world.stable));
            return Request::Stable { bad };
        }
        let group = (self.rng.random::<u8>()) % Self::GROUPS;
        match world.users {
            Users::OneHeavy(share) if self.chance(share) => Request::Canary {
                group: 0,
                bad: ALL_BAD,
            },
            Users::OneHeavyInAllGroups(share) if self.chance(share) => {
                Request::Canary { group, bad: ALL_BAD }
            }
            Users::Many | Users::OneHeavy(_) | Users::OneHeavyInAllGroups(_) => Request::Canary {
                group,
                bad: self.bad(shocked.unwrap_or(world.canary)),
            },
            Users::Retrying(times) => {
                if self.retries == 0 {
                    // As many bad requests in the long run as if each were of another user.
                    let share = world.canary;
                    let begins = share / (share + f64::from(times) * (1.0 - share));
                    if !self.chance(begins) {
                        return Request::Canary { group, bad: 0 };
                    }
                    (self.retries, self.group) = (times, group);
                }
                self.retries -= 1;
                Request::Canary {
                    group: self.group,
                    bad: ALL_BAD,
                }
            }
        }
    }

    /// The chance of a bad request while both versions are in an outage.
    fn shock(&mut self) -> Option<f64> {
        let shocks = self.world.shocks?;
        let turns = if self.in_shock { shocks.ends } else { shocks.begins };
        self.in_shock ^= self.chance(turns);
        self.in_shock.then_some(shocks.bad)
    }

    fn bad(&mut self, chance: f64) -> u8 {
        (0..METRICS).fold(0, |bad, _| bad << 1 | u8::from(self.chance(chance)))
    }

    fn chance(&mut self, chance: f64) -> bool {
        self.rng.random::<f64>() < chance
    }

    #[allow(clippy::cast_possible_truncation, reason = "there are 16")]
    const GROUPS: u8 = GROUPS as u8;
}

/// Gathers the requests of one report.
#[derive(Default)]
pub(crate) struct Report {
    ordered: Vec<Block>,
    stable: Counts,
    more: Counts,
}

#[derive(Default)]
struct Counts {
    requests: u64,
    bad: [u64; METRICS],
}

impl Report {
    pub(crate) fn add(&mut self, request: Request) {
        match request {
            Request::Stable { bad } => self.stable.add(bad),
            Request::Canary { bad, .. } if self.ordered.len() == MAX_ORDERED => self.more.add(bad),
            Request::Canary { group, bad } => self.ordered.push(Block {
                stable: std::mem::take(&mut self.stable).tallies(),
                canary: Outcome::new(Group::new(group).expect("it is a group"), bad),
            }),
        }
    }

    /// A request that staging led to the version, which is compared with nothing.
    pub(crate) fn add_picked(&mut self, request: Request) {
        if let Request::Canary { bad, .. } = request {
            self.more.add(bad);
        }
    }

    pub(crate) fn send(self) -> Outcomes {
        Outcomes::in_order(self.ordered, self.stable.tallies())
            .expect("it is not too long")
            .with_uncompared(self.more.tallies(), Tallies::default())
    }
}

impl Counts {
    fn add(&mut self, bad: u8) {
        self.requests += 1;
        for (metric, count) in self.bad.iter_mut().enumerate() {
            *count += u64::from(bad >> metric & 1);
        }
    }

    fn tallies(self) -> Tallies {
        Tallies::new(self.requests, &self.bad).expect("they are right")
    }
}
