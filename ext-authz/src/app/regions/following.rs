//! What other regions say of rollouts and flags, taken over.

use std::sync::Arc;

use knhk_regions::wire::{Message, RolloutState};

use super::Regions;
use crate::app::App;
use crate::app::rollouts::{CommandError, InUse, Rollouts};

impl Regions {
    /// Takes a peer's message in, and says what is known better here. Returns once what is new is in force here, and recorded.
    pub(crate) async fn replicated(
        self: &Arc<Self>,
        mut message: Message,
        app: &App,
    ) -> Result<Message, CommandError> {
        app.relayed(std::mem::take(&mut message.reports));
        if let Ok((name, _)) = self.peer(&message.region) {
            self.heard_from(name);
        }
        self.follow(&message.region, &message, &app.rollouts).await?;
        let seen = std::mem::take(&mut message.seen);
        let regions = Arc::clone(self);
        let looked = tokio::task::spawn_blocking(move || {
            regions.witness(&seen);
            regions.seen()
        });
        Ok(Message {
            seen: looked.await.unwrap_or_default(),
            ..self.replication().newer_than(&message)
        })
    }

    /// Takes over what a region says. What cannot be taken over keeps nothing else from being so; the first reason is the answer.
    pub(in crate::app) async fn follow(
        &self,
        from: &str,
        said: &Message,
        rollouts: &Rollouts,
    ) -> Result<(), CommandError> {
        let news = said
            .states
            .iter()
            .filter(|state| self.replication().is_news(state));
        // What takes traffic off a version waits for nothing, least of all for a log that takes nothing.
        let (aborted, others): (Vec<_>, Vec<_>) = news.partition(|state| state.aborted);
        let mut done = Ok(());
        for state in aborted {
            done = done.and(follow_rollout(from, state, rollouts).await);
        }
        // A rollout may ask for a flag that is new, or no longer for one that is gone: first is whatever leaves nothing out.
        let mut flags = said
            .flags
            .as_ref()
            .filter(|flags| self.replication().are_news(flags));
        if let Some(news) = flags {
            match rollouts.follow_flags(from, news.clone(), InUse::Stay).await {
                Err(CommandError::FlagsInUse(_)) => {}
                followed => {
                    done = done.and(unless_unreadable(from, followed));
                    flags = None;
                }
            }
        }
        for state in others {
            done = done.and(follow_rollout(from, state, rollouts).await);
        }
        if let Some(news) = flags {
            let followed = rollouts.follow_flags(from, news.clone(), InUse::MayGo).await;
            done = done.and(unless_unreadable(from, followed));
        }
        done
    }
}

async fn follow_rollout(from: &str, state: &RolloutState, rollouts: &Rollouts) -> Result<(), CommandError> {
    unless_unreadable(from, rollouts.follow(from, state.clone()).await)
}

/// What cannot be read would be refused each time that it is sent: it is told here, and counts as taken.
fn unless_unreadable(from: &str, followed: Result<(), CommandError>) -> Result<(), CommandError> {
    match followed {
        Err(error @ (CommandError::Unreadable { .. } | CommandError::FlagsUnreadable { .. })) => {
            tracing::error!(from, %error, "what another region says is not followed");
            Ok(())
        }
        followed => followed,
    }
}
