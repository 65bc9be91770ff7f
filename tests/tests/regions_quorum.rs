//! Regions as real processes: a receipt that a quorum holds, and what is said where there is none.
#![allow(clippy::expect_used)]

use knhk_tests::cli::Cli;
use knhk_tests::gate::connect;
use knhk_tests::recorded::check_with_quorum;
use knhk_tests::regions::{NAMES, Regions, index_of};

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_shows_which_regions_hold_it_and_verifies_with_their_keys() {
    let mut regions = Regions::start(3).await.expect("three regions");
    let channel = connect(regions.at(0).addresses().grpc).await.expect("connects");
    let id = check_with_quorum(channel, "/held", "20s")
        .await
        .expect("answers")
        .expect("a receipt");
    let index = index_of(&id).expect("an index");
    assert!(regions.until_committed(0, index + 1).await.expect("committed") > index);

    let cli = regions.at(0).cli().expect("the command line");
    let shown = cli.json(&["receipt", "get", &id]).await.expect("a receipt");
    let held = shown["acknowledgements"].as_array().expect("a list");
    assert!(!held.is_empty(), "{shown}");
    for ack in held {
        assert!(NAMES[1..3].iter().any(|name| ack["region"] == *name), "{ack}");
        assert!(ack["treeSize"].as_u64().expect("a size") > index, "{ack}");
    }

    let file = regions.at(0).directory().join("held.receipt");
    let file = file.to_str().expect("text");
    cli.text(&["receipt", "get", &id, "--out", file])
        .await
        .expect("a file");
    let mut verify = vec!["receipt".to_owned(), "verify".to_owned(), file.to_owned()];
    for (at, name) in NAMES.iter().enumerate().take(3) {
        let url = format!("http://{}/v1/keys", regions.at(at).addresses().http);
        let set = reqwest::get(url)
            .await
            .expect("answers")
            .bytes()
            .await
            .expect("a key set");
        let path = regions.at(0).directory().join(format!("{name}.json"));
        std::fs::write(&path, set).expect("written");
        verify.extend(["--key".to_owned(), path.display().to_string()]);
    }
    let offline = Cli::offline().expect("the command line");
    let said = offline.text(&verify).await.expect("it verifies");
    assert!(
        said.contains(held[0]["region"].as_str().expect("a name")),
        "{said}"
    );
    assert!(!said.contains("not checked"), "{said}");

    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    regions
        .judged(&[index + 1])
        .await
        .expect("the judge finds nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_region_down_is_no_matter_and_with_two_down_receipts_commit_later_by_themselves() {
    let mut regions = Regions::start(3).await.expect("three regions");
    let channel = connect(regions.at(0).addresses().grpc).await.expect("connects");
    regions.at_mut(2).kill();
    let id = check_with_quorum(channel.clone(), "/one-down", "20s")
        .await
        .expect("answers");
    let held = index_of(&id.expect("a receipt")).expect("an index") + 1;

    regions.at_mut(1).kill();
    let none = check_with_quorum(channel.clone(), "/two-down", "2s")
        .await
        .expect("answers");
    assert_eq!(none, None, "no quorum holds it");
    let status = regions
        .until(0, "entries that wait", |it| {
            it["signed"].as_u64() > it["committed"].as_u64()
        })
        .await
        .expect("they are durable here");
    let waiting = status["signed"].as_u64().expect("a size");
    regions
        .until(0, "why not", |it| {
            NAMES[1..3]
                .iter()
                .all(|name| !Regions::peer(it, name)["last_error"].is_null())
        })
        .await
        .expect("each peer's failure is shown");
    let said = regions
        .at(0)
        .cli()
        .expect("it")
        .text(&["region", "status"])
        .await
        .expect("said");
    assert!(said.contains(NAMES[1]) && said.contains(NAMES[2]), "{said}");

    regions.at_mut(1).up().await.expect("it starts");
    let committed = regions.until_committed(0, waiting).await.expect("by itself");
    assert!(committed >= waiting && waiting > held);
    regions.up_all().await.expect("all start");
    regions.until_equal(&[0, 1, 2]).await.expect("equal");
    regions
        .judged(&[committed])
        .await
        .expect("the judge finds nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_five_regions_two_may_be_gone_and_three_may_not() {
    let mut regions = Regions::start(5).await.expect("five regions");
    assert_eq!(regions.quorum(), 3);
    let channel = connect(regions.at(0).addresses().grpc).await.expect("connects");
    for at in [3, 4] {
        regions.at_mut(at).kill();
    }
    let id = check_with_quorum(channel.clone(), "/two-of-five-down", "20s")
        .await
        .expect("answers");
    let held = index_of(&id.expect("a receipt")).expect("an index") + 1;
    regions.at_mut(2).kill();
    let none = check_with_quorum(channel, "/three-of-five-down", "2s")
        .await
        .expect("answers");
    assert_eq!(none, None, "no quorum holds it");
    regions
        .looked_at(&[held], false)
        .expect("the judge finds nothing");
    regions.up_all().await.expect("all start");
    regions.until_equal(&[0, 1, 2, 3, 4]).await.expect("equal");
    let committed = regions.until_committed(0, held + 1).await.expect("by itself");
    regions
        .judged(&[committed])
        .await
        .expect("the judge finds nothing");
}
