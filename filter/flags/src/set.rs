//! A flag file, read once and ready to evaluate.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::document::Document;
use crate::error::{Fault, FlagsError, Refusal};
use crate::flag::{self, Flag, Kind};
use crate::json::{Json, Object};
use crate::limits::{MAX_EVALUATORS, MAX_FLAG_KEY_BYTES, MAX_FLAGS};
use crate::logic::{Compiler, Evaluator, Evaluators, Reads};
use crate::message::quoted;
use crate::path::Path;

/// All flags of a file that was checked once, whole. It does not change.
#[derive(Debug, Default)]
pub struct FlagSet {
    flags: BTreeMap<Box<str>, Flag>,
    metadata: Object,
}

impl FlagSet {
    /// Reads a flag file, which is JSON in flagd's schema.
    pub fn parse(bytes: &[u8]) -> Result<Self, FlagsError> {
        Ok(Self::compile(&Document::parse(bytes)?)?)
    }

    /// Checks flag definitions and makes them ready to evaluate.
    pub fn compile(document: &Document) -> Result<Self, Refusal> {
        Self::read(document.json())
    }

    /// The flags' keys, sorted, with which values they have.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = (&str, Kind)> {
        self.flags.iter().map(|(key, flag)| (&**key, flag.kind))
    }

    /// Whether there is no flag.
    pub fn is_empty(&self) -> bool {
        self.flags.is_empty()
    }

    /// What a flag's rule may read of a context; `None` where there is no such flag.
    pub fn reads(&self, key: &str) -> Option<&Reads> {
        self.flags.get(key).map(|flag| &flag.reads)
    }

    /// The names of a flag's variants, sorted; `None` where there is no such flag.
    pub fn variants(&self, key: &str) -> Option<impl Iterator<Item = &str>> {
        self.flags.get(key).map(Flag::variants)
    }

    /// `metadata` of a flag over that of the file, sorted by name. Of a flag that is not there, that of the file.
    pub fn metadata(&self, key: &str) -> BTreeMap<&str, &Json> {
        let own = self.flags.get(key).map(|flag| flag.metadata.members());
        self.metadata.members().chain(own.into_iter().flatten()).collect()
    }

    pub(crate) fn flag(&self, key: &str) -> Option<(&str, &Flag)> {
        self.flags.get_key_value(key).map(|(key, flag)| (&**key, flag))
    }

    fn read(json: &Json) -> Result<Self, Refusal> {
        let root = Path::Root;
        let file = flag::object(json, &root)?;
        flag::only(file, &["flags", "$evaluators", "metadata", "$schema"], &root)?;
        let metadata = flag::read_metadata(file, &root)?;
        let evaluators = read_evaluators(file, &root)?;
        let mut flags = BTreeMap::new();
        let at = root.member("flags");
        for (key, definition) in definitions(file, &at)?.members() {
            let at = at.member(key);
            flag::check_key(key, &at)?;
            flags.insert(key.into(), Flag::read(definition, &at, &evaluators)?);
        }
        Ok(Self { flags, metadata })
    }
}

fn definitions<'j>(file: &'j Object, at: &Path<'_>) -> Result<&'j Object, Refusal> {
    let flags = match file.get("flags") {
        Some(Json::Object(flags)) => flags,
        Some(Json::List(_)) => {
            let reason =
                "is a list, which flagd's providers do not take: write an object of flags by their keys";
            return Err(at.refuse(Fault::BadForm, reason));
        }
        Some(other) => {
            let reason = format!("is {}: write an object of flags by their keys", other.kind());
            return Err(at.refuse(Fault::BadForm, reason));
        }
        None => {
            return Err(at.refuse(
                Fault::Missing,
                "is missing: write an object of flags by their keys",
            ));
        }
    };
    at.within(flags.len(), MAX_FLAGS, "flags")?;
    Ok(flags)
}

fn read_evaluators<'j>(file: &'j Object, root: &Path<'_>) -> Result<Evaluators<'j>, Refusal> {
    let at = root.member("$evaluators");
    let rules = match file.get("$evaluators") {
        None => return Ok(Evaluators::new()),
        Some(rules) => flag::object(rules, &at)?,
    };
    at.within(rules.len(), MAX_EVALUATORS, "evaluators")?;
    let mut evaluators = Evaluators::new();
    for (name, rule) in rules.members() {
        let at = at.member(name);
        at.within(name.len(), MAX_FLAG_KEY_BYTES, "bytes of an evaluator's name")?;
        if name.is_empty() {
            let reason = format!("{} is no evaluator's name: write some text", quoted(name));
            return Err(at.refuse(Fault::BadForm, reason));
        }
        let mut reads = Reads::default();
        let rule = Arc::new(Compiler::new(None, &mut reads).rule(rule, &at)?);
        evaluators.insert(name, Evaluator { rule, reads });
    }
    Ok(evaluators)
}
