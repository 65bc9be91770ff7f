use std::fmt;
use std::str::FromStr;

use super::{TILE_HEIGHT, TILE_WIDTH};

/// The highest tile level of C2SP tlog-tiles.
const MAX_LEVEL: u8 = 63;

/// A tile number is written three digits at a time.
const PATH_BASE: u64 = 1000;

/// The longest path: seven groups of three digits are enough for any number.
const MAX_PATH_BYTES: usize = 64;

/// What a tile holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum TileKind {
    /// The entries themselves: each as a 16-bit big-endian length and its bytes.
    Entries,
    /// Hashes at level `8 * L` of the tree.
    Level(u8),
}

/// One file of C2SP tlog-tiles. Displayed and parsed as its path: `tile/<L>/<N>[.p/<W>]` or `tile/entries/<N>[.p/<W>]`,
/// where 1234067 is written `x001/x234/067`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Tile {
    pub(crate) kind: TileKind,
    /// Its place among the tiles of its kind, from 0.
    pub(crate) n: u64,
    /// How many items it holds: 1 to 256, below 256 in a partial tile.
    pub(crate) width: u64,
}

impl Tile {
    pub(crate) fn full(kind: TileKind, n: u64) -> Self {
        Self {
            kind,
            n,
            width: TILE_WIDTH,
        }
    }

    /// As wide as it is in a tree of `size` entries; `None` where that has nothing of it.
    pub(crate) fn in_tree(kind: TileKind, n: u64, size: u64) -> Option<Self> {
        let width = kind
            .items(size)
            .checked_sub(n.checked_mul(TILE_WIDTH)?)?
            .min(TILE_WIDTH);
        (width > 0).then_some(Self { kind, n, width })
    }

    /// The same tile with all its items.
    pub(crate) fn completed(self) -> Self {
        Self {
            width: TILE_WIDTH,
            ..self
        }
    }

    /// The directory of its partial forms.
    pub(crate) fn partials_dir(self) -> String {
        format!("{}.p", self.completed())
    }
}

impl TileKind {
    /// How many items of this kind a tree of `size` entries has.
    pub(crate) fn items(self, size: u64) -> u64 {
        match self {
            Self::Entries => size,
            Self::Level(level) => size
                .checked_shr(u32::from(level) * u32::from(TILE_HEIGHT))
                .unwrap_or(0),
        }
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            TileKind::Entries => f.write_str("tile/entries/")?,
            TileKind::Level(level) => write!(f, "tile/{level}/")?,
        }
        let mut power = PATH_BASE.pow(6);
        while power > 1 {
            if self.n >= power {
                write!(f, "x{:03}/", self.n / power % PATH_BASE)?;
            }
            power /= PATH_BASE;
        }
        write!(f, "{:03}", self.n % PATH_BASE)?;
        if self.width < TILE_WIDTH {
            write!(f, ".p/{}", self.width)?;
        }
        Ok(())
    }
}

/// Not the path of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoTile;

impl FromStr for Tile {
    type Err = NoTile;

    /// Accepts the one path that a tile has.
    fn from_str(path: &str) -> Result<Self, NoTile> {
        let tile = parse(path).ok_or(NoTile)?;
        if tile.to_string() == path {
            Ok(tile)
        } else {
            Err(NoTile)
        }
    }
}

fn parse(path: &str) -> Option<Tile> {
    if path.len() > MAX_PATH_BYTES {
        return None;
    }
    let (kind, rest) = path.strip_prefix("tile/")?.split_once('/')?;
    let kind = match kind {
        "entries" => TileKind::Entries,
        level => TileKind::Level(level.parse().ok().filter(|level| *level <= MAX_LEVEL)?),
    };
    let (number, width) = match rest.split_once(".p/") {
        Some((number, width)) => (
            number,
            width
                .parse()
                .ok()
                .filter(|width| (1..TILE_WIDTH).contains(width))?,
        ),
        None => (rest, TILE_WIDTH),
    };
    let n = number.split('/').try_fold(0_u64, |n, group| {
        let digits: u64 = group
            .strip_prefix('x')
            .unwrap_or(group)
            .parse()
            .ok()
            .filter(|it| *it < PATH_BASE)?;
        n.checked_mul(PATH_BASE)?.checked_add(digits)
    })?;
    Some(Tile { kind, n, width })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        let path = |kind, n, width| Tile { kind, n, width }.to_string();
        assert_eq!(path(TileKind::Level(0), 0, 256), "tile/0/000");
        assert_eq!(path(TileKind::Level(0), 1_234_067, 256), "tile/0/x001/x234/067");
        assert_eq!(path(TileKind::Level(2), 999, 17), "tile/2/999.p/17");
        assert_eq!(path(TileKind::Entries, 1000, 1), "tile/entries/x001/000.p/1");
        assert_eq!(
            path(TileKind::Level(0), u64::MAX, 256),
            "tile/0/x018/x446/x744/x073/x709/x551/615"
        );
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for bad in [
            "",
            "tile",
            "tile/0",
            "tile/0/",
            "tile/0/0",
            "tile/0/0000",
            "tile/64/000",
            "tile/00/000",
            "tile/-1/000",
            "tile/data/000",
            "tile/8/0/000",
            "tile/0/x000/000",
            "tile/0/x001",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/01",
            "tile/0/000.p/",
            "tile/0/+01",
            "tile/0/../../keys/v1.pem",
            "tile/0/x018/x446/x744/x073/x709/x551/616",
        ] {
            assert_eq!(bad.parse::<Tile>(), Err(NoTile), "{bad}");
        }
    }

    #[test]
    fn a_tree_has_as_much_of_a_tile_as_it_has_items() {
        let width = |kind, n, size| Tile::in_tree(kind, n, size).map(|tile| tile.width);
        assert_eq!(width(TileKind::Level(0), 0, 0), None);
        assert_eq!(width(TileKind::Level(0), 0, 1), Some(1));
        assert_eq!(width(TileKind::Entries, 1, 257), Some(1));
        assert_eq!(width(TileKind::Level(0), 1, 256), None);
        assert_eq!(width(TileKind::Level(1), 0, 255), None);
        assert_eq!(width(TileKind::Level(1), 0, 256 * 256), Some(256));
        assert_eq!(width(TileKind::Level(1), 1, 256 * 256 + 255), None);
        assert_eq!(width(TileKind::Level(63), 0, u64::MAX), None);
        assert_eq!(width(TileKind::Level(0), u64::MAX, u64::MAX), None);
    }

    proptest! {
        #[test]
        fn a_path_round_trips(level in prop::option::of(0..=63_u8), n: u64, width in 1..=256_u64) {
            let tile = Tile { kind: level.map_or(TileKind::Entries, TileKind::Level), n, width };
            prop_assert_eq!(tile.to_string().parse(), Ok(tile));
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "(tile/)?[a-z0-9/.x]{0,40}") {
            if let Ok(tile) = text.parse::<Tile>() {
                prop_assert_eq!(tile.to_string(), text);
            }
        }
    }
}
