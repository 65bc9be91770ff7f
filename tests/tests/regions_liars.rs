//! Regions as real processes, and somebody between them who forges, cuts, reorders and repeats; and keys that are old.
#![allow(clippy::expect_used)]

use std::sync::Arc;

use knhk_regions::wire::{Ack, Answer, MAX_BATCH_BYTES};
use knhk_tests::peer::fault::{Asked, FOR_EVER, Fault, Faults, Proxy};
use knhk_tests::regions::disks::wipe;
use knhk_tests::regions::link::Line;
use knhk_tests::regions::{NAMES, Regions};
use knhk_tests::wait;
use p256::ecdsa::signature::hazmat::PrehashSigner as _;
use p256::ecdsa::{Signature, SigningKey};
use p256::elliptic_curve::Generate as _;
use reqwest::StatusCode;

/// Decisions that are recorded in each phase.
const SOME: u64 = 200;

/// Bytes of a batch that are changed, each in a request of its own, spread over all of it.
const CHANGED: usize = 150;

fn is_a_batch(asked: &Asked) -> bool {
    asked.uri.path() == "/v1/receipts"
}

/// Whatever a peer answers, it acknowledges what we want it to.
fn forged(forge: impl Fn(Ack) -> Ack + Send + Sync + 'static) -> Fault {
    Fault::Edit(Arc::new(move |body| {
        let mut answer = Answer::from_bytes(&body).expect("an answer");
        answer.ack = answer.ack.map(&forge);
        answer.to_bytes().into()
    }))
}

/// Signed by a key of nobody, in the peer's name and by its key's ID.
fn signed_by_another(mut ack: Ack) -> Ack {
    let digest = Ack::digest(&ack.peer, &ack.origin, ack.size, &ack.root);
    let signature: Signature = SigningKey::generate()
        .sign_prehash(&digest)
        .expect("it is signed");
    ack.signature = signature.to_der().as_bytes().to_vec();
    ack
}

/// Of another size than was signed for.
fn of_one_less(mut ack: Ack) -> Ack {
    ack.size = ack.size.saturating_sub(1);
    ack
}

/// Another region's word.
fn in_another_s_name(mut ack: Ack) -> Ack {
    NAMES[2].clone_into(&mut ack.peer);
    ack
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_that_somebody_made_up_count_for_nothing() {
    let mut regions = Regions::start(3).await.expect("three regions");
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    regions.at_mut(2).kill();
    let liar = Proxy::start(regions.at(1).addresses().http, Faults::new(is_a_batch)).expect("a proxy");
    regions.lead(0, 1, liar.address());
    for (name, forgery) in [
        ("signed", forged(signed_by_another)),
        ("size", forged(of_one_less)),
        ("name", forged(in_another_s_name)),
    ] {
        let status = regions.status(0).await.expect("a status");
        let committed = status["committed"].as_u64().expect("a size");
        liar.faults().plan(is_a_batch, FOR_EVER, forgery);
        regions.record(0, name, SOME).await.expect("locally durable");
        let seen = regions
            .until(0, "a forgery", |it| {
                Regions::peer(it, NAMES[1])["last_error"]["label"] == "bad_ack"
                    && it["signed"].as_u64().is_some_and(|signed| signed > committed)
            })
            .await
            .expect("it is found out");
        assert_eq!(seen["committed"], committed, "{name}: {seen}");
        liar.faults().heal();
        let now = regions.until_committed(0, committed + SOME).await;
        now.expect("what is true is believed");
    }
    regions.up_all().await.expect("all start");
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    regions.judged(&[SOME]).await.expect("the judge finds nothing");
}

/// A region's HTTP address, as anybody on its machine reaches it.
struct Http(String);

impl Http {
    fn of(regions: &Regions, at: usize) -> Self {
        Self(format!("http://{}", regions.at(at).addresses().http))
    }

    async fn batch(&self, from: u64) -> Vec<u8> {
        let url = format!("{}/v1/log/{}/entries/{from}", self.0, NAMES[0]);
        let answer = reqwest::get(url).await.expect("it answers");
        assert_eq!(answer.status(), StatusCode::OK);
        answer.bytes().await.expect("a batch").to_vec()
    }

    async fn held(&self) -> u64 {
        let url = format!("{}/v1/log/{}/held", self.0, NAMES[0]);
        let answer = reqwest::get(url).await.expect("it answers");
        let answer = Answer::from_bytes(&answer.bytes().await.expect("a body"));
        answer.expect("an answer").held
    }

    async fn post(&self, batch: Vec<u8>) -> StatusCode {
        let url = format!("{}/v1/receipts", self.0);
        let client = reqwest::Client::new();
        let request = client.post(url).header("content-type", "application/cbor");
        let answer = request.body(batch).send().await.expect("it answers");
        answer.status()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_are_cut_changed_too_large_early_or_sent_again_bring_nothing() {
    let mut regions = Regions::start(3).await.expect("three regions");
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    // What the third one gets of the first one's log it gets from us.
    regions.line(0, 2, Line::cut());
    regions.record(0, "held", SOME).await.expect("recorded");
    regions.until_equal(&[1]).await.expect("equal");
    regions.until_committed(0, SOME).await.expect("two hold it");
    let (holder, target) = (Http::of(&regions, 1), Http::of(&regions, 2));
    let held = target.held().await;
    let genuine = holder.batch(held).await;
    assert!(holder.held().await > held + 1, "there is something to give");

    let refused = [StatusCode::BAD_REQUEST, StatusCode::CONFLICT];
    for cut in (0..CHANGED).map(|part| part * genuine.len() / CHANGED) {
        let said = target.post(genuine[..cut].to_vec()).await;
        assert!(refused.contains(&said), "cut to {cut} bytes: {said}");
    }
    for at in (0..CHANGED).map(|part| part * genuine.len() / CHANGED) {
        let mut changed = genuine.clone();
        changed[at] ^= 1 << (at % 8);
        let said = target.post(changed).await;
        assert!(refused.contains(&said), "byte {at} changed: {said}");
    }
    let large = target.post(vec![0xa0; MAX_BATCH_BYTES + 1]).await;
    assert_eq!(large, StatusCode::PAYLOAD_TOO_LARGE);
    let early = target.post(holder.batch(held + 1).await).await;
    assert_eq!(early, StatusCode::CONFLICT, "one entry is missing before it");
    assert_eq!(target.held().await, held, "nothing of it is held");

    assert_eq!(target.post(genuine.clone()).await, StatusCode::OK);
    let more = target.held().await;
    assert!(more > held + 1, "{more} after {held}");
    for again in [genuine, holder.batch(0).await] {
        assert_eq!(target.post(again).await, StatusCode::OK);
        assert_eq!(target.held().await, more, "what is held already is no news");
    }
    regions.every_line(Line::default());
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    for at in [1, 2] {
        let status = regions.status(at).await.expect("a status");
        let mirror = &Regions::peer(&status, NAMES[0])["mirror"];
        assert_eq!(mirror["is_alarmed"], false, "noise is no second history");
    }
    regions.judged(&[SOME]).await.expect("the judge finds nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_knows_only_an_old_key_is_led_to_the_newest() {
    let mut regions = Regions::start(3).await.expect("three regions");
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    regions.at_mut(1).kill();
    let cli = regions.at(0).cli().expect("the command line");
    for rotation in 0..3 {
        cli.json(&["key", "rotate"]).await.expect("rotated");
        let name = format!("rotation-{rotation}");
        regions.record(0, &name, SOME).await.expect("recorded");
        regions.until_signed(0).await.expect("by the new key");
    }
    // It was away for three keys.
    regions.at_mut(1).up().await.expect("it starts");
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    // And one that has nothing, with the first key in its configuration.
    regions.at_mut(2).terminate(wait::SOON).await.expect("it ends");
    wipe(&regions.at(2).data()).expect("its disk is lost");
    regions.at_mut(2).up().await.expect("it gets its log back");
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    regions
        .judged(&[3 * SOME])
        .await
        .expect("the judge finds nothing");
}
