//! A metric and its label set as types, so that a counter cannot be set and a label cannot be forgotten.

use std::fmt::{Debug, Write};
use std::hash::Hash;
use std::marker::PhantomData;

use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::registry::Unit;

/// What the registry says of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The dotted name, such as `knhk.check.duration`.
    pub name: &'static str,
    /// A UCUM unit: `s`, `By`, `%`, `1`, or an annotation such as `{request}`.
    pub unit: &'static str,
    /// One line without a full stop.
    pub brief: &'static str,
    /// How values are recorded.
    pub instrument: Instrument,
    /// Keys of the attributes that every sample carries.
    pub attributes: &'static [&'static str],
}

impl Definition {
    /// The name in the text exposition before any unit: dots are underscores.
    pub fn exposed_name(&self) -> String {
        self.name.replace('.', "_")
    }

    /// The unit that the exposition adds to the name; counted things and plain numbers have none.
    pub fn exposed_unit(&self) -> Option<Unit> {
        match self.unit {
            "s" => Some(Unit::Seconds),
            "By" => Some(Unit::Bytes),
            "%" => Some(Unit::Other("percent".into())),
            _ => None,
        }
    }
}

/// How a metric's values are recorded, in the words of OpenTelemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instrument {
    /// Only grows.
    Counter,
    /// Grows and shrinks by steps.
    UpDownCounter,
    /// Is set.
    Gauge,
    /// Is a distribution.
    Histogram,
}

/// The instruments as types.
pub mod kind {
    /// See [`Instrument::Counter`](super::Instrument::Counter).
    #[derive(Clone, Copy, Debug)]
    pub struct Counter;
    /// See [`Instrument::UpDownCounter`](super::Instrument::UpDownCounter).
    #[derive(Clone, Copy, Debug)]
    pub struct UpDownCounter;
    /// See [`Instrument::Gauge`](super::Instrument::Gauge).
    #[derive(Clone, Copy, Debug)]
    pub struct Gauge;
    /// See [`Instrument::Histogram`](super::Instrument::Histogram).
    #[derive(Clone, Copy, Debug)]
    pub struct Histogram;
}

/// A metric of the registry: `K` is its instrument, `L` its label set.
#[derive(Clone, Copy, Debug)]
pub struct Metric<K, L> {
    /// What the registry says of it.
    pub definition: Definition,
    shape: PhantomData<fn() -> (K, L)>,
}

impl<K, L> Metric<K, L> {
    pub(crate) const fn new(definition: Definition) -> Self {
        Self {
            definition,
            shape: PhantomData,
        }
    }
}

/// An attribute of the registry.
pub trait Attribute: Clone + Eq + Hash + Debug + Send + Sync + 'static {
    /// The attribute's key, such as `knhk.check.outcome`.
    const KEY: &'static str;

    /// The value as a label shows it.
    fn as_str(&self) -> &str;

    /// Every value, where the registry closes the set.
    fn known() -> Option<Vec<Self>>;
}

/// The label that shows the attribute with this key: the key's last part.
fn label(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

/// The attributes that every sample of a metric carries: a tuple of none, one or two.
pub trait LabelSet: Clone + Eq + Hash + Debug + Send + Sync + 'static {
    /// Every combination, where all attributes are closed. They are shown from the start, as zero.
    fn known() -> Option<Vec<Self>>;

    /// Writes the labels.
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> std::fmt::Result;
}

impl LabelSet for () {
    fn known() -> Option<Vec<Self>> {
        Some(vec![()])
    }

    fn encode(&self, _: &mut LabelSetEncoder<'_>) -> std::fmt::Result {
        Ok(())
    }
}

impl<A: Attribute> LabelSet for (A,) {
    fn known() -> Option<Vec<Self>> {
        Some(A::known()?.into_iter().map(|a| (a,)).collect())
    }

    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> std::fmt::Result {
        encode_attribute(&self.0, encoder)
    }
}

impl<A: Attribute, B: Attribute> LabelSet for (A, B) {
    fn known() -> Option<Vec<Self>> {
        let (left, right) = (A::known()?, B::known()?);
        Some(
            left.iter()
                .flat_map(|a| right.iter().map(|b| (a.clone(), b.clone())))
                .collect(),
        )
    }

    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> std::fmt::Result {
        encode_attribute(&self.0, encoder)?;
        encode_attribute(&self.1, encoder)
    }
}

fn encode_attribute<A: Attribute>(attribute: &A, encoder: &mut LabelSetEncoder<'_>) -> std::fmt::Result {
    let mut encoder = encoder.encode_label();
    let mut key = encoder.encode_label_key()?;
    key.write_str(label(A::KEY))?;
    let mut value = key.encode_label_value()?;
    value.write_str(attribute.as_str())?;
    value.finish()
}

/// A label set as the exposition's encoder wants it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Labels<L>(pub(crate) L);

impl<L: LabelSet> EncodeLabelSet for Labels<L> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> std::fmt::Result {
        self.0.encode(encoder)
    }
}
