use std::collections::VecDeque;
use std::sync::Mutex;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::Time as _;
use crate::testing::{self, TestTime};

fn call() -> Call {
    Call::new("vault", "sign with", "transit/keys/knhk")
}

fn policy() -> impl Strategy<Value = Retry> {
    (1_u64..60_000, 1_u64..10_000, 0_u64..2_000, 0_u64..5_000).prop_map(|(deadline, attempt, base, cap)| {
        Retry {
            deadline: Duration::from_millis(deadline),
            attempt: Duration::from_millis(attempt),
            base: Duration::from_millis(base),
            cap: Duration::from_millis(cap),
        }
    })
}

/// What a scripted attempt does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    Succeeds,
    Throttled,
    Unreachable,
    ProviderFails,
    Forbidden,
    /// No answer: the attempt's limit ends it.
    Hangs,
}

fn attempt() -> impl Strategy<Value = Attempt> {
    prop_oneof![
        1 => Just(Attempt::Succeeds),
        3 => Just(Attempt::Throttled),
        2 => Just(Attempt::Unreachable),
        2 => Just(Attempt::ProviderFails),
        1 => Just(Attempt::Forbidden),
        3 => Just(Attempt::Hangs),
    ]
}

/// One run of a script in which every attempt that ends by itself takes `took`. After its end the script's last goes on.
struct Run {
    result: Result<(), KmsError>,
    /// What the attempts that were made did.
    made: Vec<Attempt>,
    lasted: Duration,
}

fn run(retry: Retry, script: Vec<Attempt>, took: Duration, randoms: Vec<u64>) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let time = TestTime::new();
        let randoms = Mutex::new(randoms.into_iter().cycle());
        let env = Env {
            random: std::sync::Arc::new(move || randoms.lock().expect("no panic").next().unwrap_or(0)),
            ..testing::env(time.clone(), &[])
        };
        let last = *script.last().expect("an attempt");
        let script = Mutex::new(VecDeque::from(script));
        let made = Mutex::new(Vec::new());
        let result = retry
            .run(&env, &call(), || {
                let next = script.lock().expect("no panic").pop_front().unwrap_or(last);
                made.lock().expect("no panic").push(next);
                let time = time.clone();
                async move {
                    if next == Attempt::Hangs {
                        time.expire();
                        return std::future::pending().await;
                    }
                    time.advance(took);
                    match next {
                        Attempt::Succeeds => Ok(()),
                        Attempt::Throttled => Err(call().throttled("429")),
                        Attempt::Unreachable => Err(call().unreachable("refused")),
                        Attempt::ProviderFails => Err(call().provider("503")),
                        _ => Err(call().forbidden("403")),
                    }
                }
            })
            .await;
        Run {
            result,
            made: made.into_inner().expect("no panic"),
            lasted: time.now(),
        }
    })
}

proptest! {
    /// A pause is below its bound, the bound doubles up to the cap, and no pause reaches the deadline.
    #[test]
    fn a_pause_is_within_its_bound_and_the_deadline(
        retry in policy(), failures in 1_u32..100, elapsed_ms in 0_u64..120_000, random in any::<u64>(),
    ) {
        let elapsed = Duration::from_millis(elapsed_ms);
        let doubled = retry.base.saturating_mul(2_u32.saturating_pow(failures - 1));
        match retry.next(failures, elapsed, random) {
            Some(pause) => {
                prop_assert!(pause <= doubled.min(retry.cap));
                prop_assert!(elapsed + pause < retry.deadline);
            }
            None => prop_assert!(elapsed + doubled.min(retry.cap) >= retry.deadline),
        }
    }

    /// Jitter is full: a larger random number is a longer pause, from zero to the bound.
    #[test]
    fn jitter_reaches_from_zero_to_the_bound(retry in policy(), failures in 1_u32..100, a in any::<u64>(), b in any::<u64>()) {
        let open = Retry { deadline: Duration::MAX, ..retry };
        let pause = |random| open.next(failures, Duration::ZERO, random).expect("no deadline");
        prop_assert_eq!(pause(0), Duration::ZERO);
        let bound = retry.base.saturating_mul(2_u32.saturating_pow(failures - 1)).min(retry.cap);
        prop_assert!(bound <= pause(u64::MAX) + Duration::from_nanos(1));
        prop_assert!(pause(a.min(b)) <= pause(a.max(b)));
    }

    /// Whatever attempts do: what heals is tried again and nothing else, the result is the last attempt's, and the call ends
    /// within its deadline and what the attempt that was under way took by itself.
    #[test]
    fn a_call_ends_in_time_and_repeats_only_what_heals(
        retry in policy(), script in vec(attempt(), 1..12), took_ms in 1_u64..500, randoms in vec(any::<u64>(), 1..8),
    ) {
        let took = Duration::from_millis(took_ms);
        // With no pause at all, attempts that take no time would never end.
        let run = run(retry, script, took, randoms);
        prop_assert!(run.lasted <= retry.deadline + took, "{:?}", run.lasted);
        let (last, before) = run.made.split_last().expect("there is always one attempt");
        prop_assert!(!before.contains(&Attempt::Succeeds) && !before.contains(&Attempt::Forbidden), "{:?}", run.made);
        match (last, run.result) {
            (Attempt::Succeeds, Ok(())) => {}
            (Attempt::Forbidden, Err(error)) => {
                let plain = matches!(error, KmsError::Forbidden { .. });
                prop_assert!(plain);
            }
            (Attempt::Succeeds | Attempt::Forbidden, result) => prop_assert!(false, "{result:?}"),
            (_, Ok(())) => prop_assert!(false, "a success of nothing"),
            (last, Err(error)) => {
                let label = match last {
                    Attempt::Throttled => "throttled",
                    Attempt::Unreachable => "unreachable",
                    Attempt::ProviderFails => "provider",
                    _ => "timeout",
                };
                // An attempt that the deadline cut short may be told by the one before it.
                prop_assert!(error.label() == label || *last == Attempt::Hangs, "{error} after {:?}", run.made);
                let attempts = match error {
                    KmsError::GaveUp { attempts, .. } => attempts as usize,
                    _ => 1,
                };
                prop_assert_eq!(attempts, run.made.len());
            }
        }
    }
}

#[test]
fn an_attempt_cut_short_by_the_deadline_is_told_by_the_one_before() {
    let retry = Retry {
        deadline: Duration::from_secs(5),
        attempt: Duration::from_secs(2),
        base: Duration::ZERO,
        cap: Duration::ZERO,
    };
    let script = vec![Attempt::Throttled, Attempt::Hangs];
    let cut = run(retry, script.clone(), Duration::from_secs(4), vec![0]);
    let error = cut.result.expect_err("the deadline passed");
    assert_eq!(error.label(), "throttled", "{error}");
    let whole = run(retry, script, Duration::from_secs(1), vec![0]);
    let error = whole.result.expect_err("the deadline passed");
    assert_eq!(error.label(), "timeout", "{error}");
}

#[test]
fn once_the_deadline_is_used_up_nothing_is_attempted_and_the_error_says_so() {
    let spent = Retry {
        deadline: Duration::ZERO,
        ..Retry::CALL
    };
    let spent = run(spent, vec![Attempt::Succeeds], Duration::ZERO, vec![0]);
    assert_eq!(spent.made, []);
    let error = spent.result.expect_err("no time");
    assert_eq!(error.label(), "timeout");
    let line = error.to_string();
    assert!(
        line.contains("no time was left") && !line.contains("within"),
        "{line}"
    );
}

/// A clock whose pauses last until the deadline, as those of a busy machine may.
struct Oversleeping(std::sync::Arc<TestTime>);

#[async_trait::async_trait]
impl crate::Time for Oversleeping {
    fn now(&self) -> Duration {
        self.0.now()
    }

    async fn pause(&self, _: Duration) {
        self.0.advance(CALL_DEADLINE);
    }

    async fn limit(&self, limit: Duration) {
        self.0.limit(limit).await;
    }
}

#[tokio::test]
async fn a_pause_that_outlasts_the_deadline_is_told_by_the_failure_before_it() {
    let env = Env {
        time: std::sync::Arc::new(Oversleeping(TestTime::new())),
        ..testing::env(TestTime::new(), &[])
    };
    let mut attempts = 0;
    let result = Retry::CALL
        .run(&env, &call(), || {
            attempts += 1;
            async { Err::<(), _>(call().throttled("429")) }
        })
        .await;
    let error = result.expect_err("throttled");
    assert_eq!((attempts, error.label()), (1, "throttled"), "{error}");
}

#[test]
fn what_was_tried_is_said_in_one_line() {
    let run = run(
        Retry::CALL,
        vec![Attempt::Throttled],
        Duration::from_millis(700),
        vec![0],
    );
    let error = run.result.expect_err("throttled for ever").to_string();
    assert!(error.contains("tried 8 times in 5.6s"), "{error}");
    assert!(!error.contains('\n'), "{error}");
}

/// The runtime's clock, which stands still here and jumps to the next moment that something waits for.
#[tokio::test(start_paused = true)]
async fn the_runtimes_clock_ends_attempts_and_calls() {
    let start = tokio::time::Instant::now();
    let env = Env::system();
    let hanging = Retry::CALL
        .run(&env, &call(), std::future::pending::<Result<(), KmsError>>)
        .await;
    let error = hanging.expect_err("nothing answers");
    assert_eq!(error.label(), "timeout", "{error}");
    assert!(
        matches!(error, KmsError::GaveUp { attempts: 3, .. }),
        "two whole attempts and the rest: {error}"
    );
    let took = start.elapsed();
    // The runtime's timers have a resolution of a millisecond.
    let late = took.saturating_sub(CALL_DEADLINE);
    assert!(
        took >= CALL_DEADLINE && late <= Duration::from_millis(10),
        "{took:?}"
    );
}
