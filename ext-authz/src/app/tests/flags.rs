//! Flag definitions: applied, recorded, kept, and refused where a rollout asks for what they do not have.

use knhk_decision::{PolicyDoc, PolicyId};
use knhk_flags::Document;
use knhk_receipts::{ActionReceipt, Payload};

use super::{Ending, Running, SPEC};
use crate::app::rollouts::CommandError;

pub(super) const BETA: &str = "
flags:
  beta: { state: ENABLED, variants: { on: true, off: false }, defaultVariant: off }
  other: { state: ENABLED, variants: { a: 1 }, defaultVariant: a }
";

pub(super) fn gated() -> String {
    SPEC.replace(
        "[checkout.example.com] }",
        "[checkout.example.com], flags: { beta: on } }\n  flags: [ beta ]",
    )
}

impl Running {
    pub(super) async fn apply_flags(&self, text: &str) -> Result<(), CommandError> {
        let document = crate::flags::read(text).expect("definitions");
        self.app.rollouts.apply_flags(document, "someone".into()).await
    }

    /// The flags in the newest snapshot.
    fn published(&self) -> Vec<String> {
        let flags = self.app.snapshots.newest().flags.clone();
        flags.iter().flat_map(Document::keys).map(str::to_owned).collect()
    }

    pub(super) fn flag_actions(&self) -> Vec<ActionReceipt> {
        let entries = self.app.log.scan(0).map(|entry| entry.expect("readable").1);
        entries
            .filter_map(|payload| match payload {
                Payload::Action(action) if action.target == "flags" => Some(action),
                _ => None,
            })
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_are_recorded_published_where_they_are_asked_for_and_kept() {
    for ending in [Ending::Orderly, Ending::Killed] {
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("data");
        let first = Running::start(&data).await;
        let empty = first.newest();
        first.apply_flags(BETA).await.expect("applied");
        assert_eq!(first.newest(), empty, "no rollout asks for one");
        first.apply(&gated()).await.expect("applied");
        assert_eq!(first.published(), ["beta"]);
        let changed = BETA.replace("defaultVariant: off", "defaultVariant: on");
        let before = first.newest();
        first.apply_flags(&changed).await.expect("applied");
        assert_eq!(
            first.newest(),
            PolicyId {
                n: before.n + 1,
                ..before
            }
        );
        first.apply_flags(&changed).await.expect("nothing changed");
        let actions = first.flag_actions();
        let [applied, change] = &actions[..] else {
            panic!("{actions:?}")
        };
        assert_eq!(
            (applied.who.as_str(), applied.target.as_str()),
            ("someone", "flags")
        );
        assert_eq!(
            (applied.reason.as_str(), change.reason.as_str()),
            ("added beta, other", "changed beta")
        );
        assert_eq!(change.before, applied.after);
        let (flags, policy) = (first.app.rollouts.flags(), first.app.snapshots.newest());
        assert_eq!(change.after.as_deref(), Some(&*flags.to_bytes()));
        first.end(&data, ending).await;

        let second = Running::start(&data).await;
        assert_eq!(second.app.rollouts.flags(), flags);
        assert_eq!(second.app.snapshots.newest().sha256, policy.sha256);
        second.end(&data, Ending::Orderly).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_rollout_asks_for_has_to_be_defined_and_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let service = Running::start(&data).await;
    let refused = service.apply(&gated()).await.expect_err("no such flag");
    assert_eq!(refused.label(), "invalid_policy");
    let refused = refused.to_string();
    assert!(
        refused.contains("rollout \"checkout\": match.flags.beta: there is no flag \"beta\""),
        "{refused}"
    );
    service.apply_flags(BETA).await.expect("applied");
    let refused = service
        .apply(&gated().replace("beta: on", "beta: maybe"))
        .await
        .expect_err("no such variant");
    assert!(
        refused
            .to_string()
            .contains("\"maybe\" is no variant of flag \"beta\""),
        "{refused}"
    );
    service.apply(&gated()).await.expect("applied");

    let (policy, size) = (service.newest(), service.app.log.size());
    for without in [
        "flags: {}".to_owned(),
        BETA.replace("beta:", "bata:"),
        BETA.replace("on: true, ", ""),
    ] {
        let refused = service.apply_flags(&without).await.expect_err("it is in use");
        assert_eq!(refused.label(), "flags_in_use");
        let refused = refused.to_string();
        assert!(
            refused.starts_with("the flags were not changed: rollout \"checkout\": ")
                && refused.contains("beta"),
            "{refused}"
        );
        assert!(!refused.contains('\n'), "{refused}");
    }
    assert_eq!(
        (service.newest(), service.app.log.size()),
        (policy, size),
        "nothing was changed"
    );
    assert!(service.app.rollouts.flags().definition("beta").is_some());

    service
        .app
        .rollouts
        .delete("checkout".into(), "someone".into())
        .await
        .expect("deleted");
    service
        .apply_flags("flags: {}")
        .await
        .expect("nobody asks for one any more");
    service.end(&data, Ending::Orderly).await;
}

/// As if the service had been killed when the log had taken the change of the flags and not yet the policy.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_publishes_what_the_flags_say() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let first = Running::start(&data).await;
    first.apply_flags(BETA).await.expect("applied");
    first.apply(&gated()).await.expect("applied");
    let changed =
        crate::flags::read(&BETA.replace("defaultVariant: off", "defaultVariant: on")).expect("definitions");
    let action = ActionReceipt {
        before: None,
        after: Some(changed.to_bytes()),
        ..first.flag_actions().remove(0)
    };
    first
        .app
        .log
        .append(vec![Payload::Action(action)])
        .await
        .expect("durable");
    let before = first.newest();
    first.end(&data, Ending::Killed).await;

    let second = Running::start(&data).await;
    let mut snapshots = second.app.snapshots.subscribe();
    let newest = snapshots
        .wait_for(|newest| newest.id != before)
        .await
        .expect("published")
        .clone();
    let wanted = PolicyDoc::new(newest.id, newest.policy.rules().to_vec()).with_flags(&changed);
    assert_eq!(newest.flags, wanted.flags);
    second.end(&data, Ending::Orderly).await;
}
