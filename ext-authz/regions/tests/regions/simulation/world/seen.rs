//! What schedules came to.

/// What a schedule came to, so that tests can say that it was worth something.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) schedules: usize,
    pub(crate) promises: usize,
    pub(crate) crashes: usize,
    pub(crate) wipes: usize,
    pub(crate) backups: usize,
    pub(crate) stops: usize,
    pub(crate) alarms: usize,
    pub(crate) rotations: usize,
    pub(crate) rolling: usize,
}

impl Seen {
    /// Everything that can go wrong has gone wrong, but for stops, which are rare. Of a few schedules nothing is asked.
    pub(crate) fn is_worth_something(&self) -> bool {
        let all = [
            self.promises,
            self.crashes,
            self.wipes,
            self.backups,
            self.rotations,
            self.rolling,
        ];
        self.schedules < 60 || all.into_iter().all(|it| it > 0)
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            schedules: self.schedules + other.schedules,
            promises: self.promises + other.promises,
            crashes: self.crashes + other.crashes,
            wipes: self.wipes + other.wipes,
            backups: self.backups + other.backups,
            stops: self.stops + other.stops,
            alarms: self.alarms + other.alarms,
            rotations: self.rotations + other.rotations,
            rolling: self.rolling + other.rolling,
        }
    }
}
