//! Who leads, and this node's vote.

use dstack_p2p::{Agent, Error, Seat, TokenId};
use serde_json::json;

use crate::{Scratch, agent::FakeAgent};

fn seat(term: u32, leader: Option<u32>) -> Seat {
    Seat { term, leader_token: leader.and_then(TokenId::new) }
}

#[tokio::test]
async fn the_leader_is_reported_with_the_term() {
    let scratch = Scratch::new();
    let fake = FakeAgent::new(&scratch.join("a.sock"));
    fake.start();
    let agent = Agent::new(scratch.join("a.sock"));
    for (token, expected) in [(json!(3), seat(5, Some(3))), (json!(null), seat(5, None))] {
        let answer = json!({ "schema": "p2p-agent.leader/v1", "term": 5, "leader_token": token, "leader": null });
        fake.answer("/v1/leader", 200, &answer.to_string());
        assert_eq!(agent.leader().await, Ok(expected));
    }
    let other = json!({ "schema": "p2p-agent.leader/v2", "term": 5, "leader_token": 3 });
    fake.answer("/v1/leader", 200, &other.to_string());
    assert!(matches!(agent.leader().await, Err(Error::WrongAgent(_))));
    fake.answer("/v1/leader", 503, r#"{"error": "cannot read who leads: no endpoint", "hint": "try again"}"#);
    assert!(matches!(agent.leader().await, Err(Error::Starting(_))));
}

#[tokio::test]
async fn a_vote_names_the_seat_and_says_what_became_of_it() {
    let scratch = Scratch::new();
    let fake = FakeAgent::new(&scratch.join("a.sock"));
    fake.start();
    let agent = Agent::new(scratch.join("a.sock"));
    let paid =
        json!({ "schema": "p2p-agent.vote/v1", "transaction": "0xaa", "not_submitted": null, "vote": { "term": 5 } });
    fake.answer("/v1/vote", 200, &paid.to_string());
    let cast = agent.vote(seat(5, Some(3))).await.unwrap();
    assert_eq!(fake.posted("/v1/vote"), Some(json!({ "term": 5, "leader_token": 3 })));
    assert_eq!((cast.transaction.as_deref(), cast.not_submitted), (Some("0xaa"), None));

    let unpaid = json!({ "schema": "p2p-agent.vote/v1", "transaction": null, "not_submitted": "no funds", "vote": { "term": 5 } });
    fake.answer("/v1/vote", 200, &unpaid.to_string());
    let cast = agent.vote(seat(5, None)).await.unwrap();
    assert_eq!(fake.posted("/v1/vote"), Some(json!({ "term": 5, "leader_token": null })));
    assert_eq!((cast.transaction, cast.not_submitted.as_deref()), (None, Some("no funds")));
    assert_eq!(cast.vote, Some(json!({ "term": 5 })));

    fake.answer("/v1/vote", 409, r#"{"error": "the seat is another: term 6, leader 4", "hint": "see /v1/leader"}"#);
    let refused = agent.vote(seat(5, Some(3))).await.unwrap_err();
    assert!(matches!(&refused, Error::Refused(advice) if advice.message.contains("term 6, leader 4")), "{refused}");

    let body =
        r#"{"error": "user 1000 may ask this agent, but not act for this node", "hint": "`--allow-vote-uid 1000`"}"#;
    fake.answer("/v1/vote", 403, body);
    let refused = agent.vote(seat(5, Some(3))).await.unwrap_err();
    let Error::NotPermitted(advice) = &refused else { panic!("{refused}") };
    assert!(advice.message.ends_with("user 1000 may ask this agent, but not act for this node"), "{refused}");
    assert_eq!(advice.hint, "`--allow-vote-uid 1000`");
}
