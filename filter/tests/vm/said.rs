//! What a worker said to the service.

use knhk_proto::v1;
use v1::up::Message as Up;

pub(crate) fn id(n: u64) -> v1::SnapshotId {
    v1::SnapshotId { epoch: 7, n }
}

pub(crate) fn hellos(sent: &[Up]) -> Vec<v1::Hello> {
    sent.iter()
        .filter_map(|up| {
            if let Up::Hello(hello) = up {
                Some(hello.clone())
            } else {
                None
            }
        })
        .collect()
}

pub(crate) fn reports(sent: &[Up]) -> Vec<v1::Report> {
    sent.iter()
        .filter_map(|up| {
            if let Up::Report(report) = up {
                Some(report.clone())
            } else {
                None
            }
        })
        .collect()
}

pub(crate) fn batches(sent: &[Up]) -> Vec<v1::DecisionBatch> {
    sent.iter()
        .filter_map(|up| {
            if let Up::Decisions(batch) = up {
                Some(batch.clone())
            } else {
                None
            }
        })
        .collect()
}
