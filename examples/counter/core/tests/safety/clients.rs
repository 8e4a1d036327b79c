//! Clients that count, one increment after the other, each repeated until it is acknowledged.

use std::collections::BTreeMap;

use counter_core::{ClientId, Counted, Increment, Rejection, Ticket, Token};

use testkit::Rng;

pub(crate) struct Clients {
    clients: Vec<Client>,
    tickets: BTreeMap<Ticket, usize>,
    next: u64,
    /// What was acknowledged: who, which, and the count that was told.
    pub(crate) acknowledged: Vec<(ClientId, Counted)>,
}

struct Client {
    name: ClientId,
    request: u64,
    /// The attempts that a reply may come for: all of the present request.
    attempts: Vec<Ticket>,
    leader: Option<Token>,
    try_at: u64,
}

impl Clients {
    pub(crate) fn new(count: usize) -> Self {
        let client = |n| Client {
            name: ClientId::try_from(format!("client-{n}")).unwrap(),
            request: 1,
            attempts: Vec::new(),
            leader: None,
            try_at: 0,
        };
        Self { clients: (0..count).map(client).collect(), tickets: BTreeMap::new(), next: 0, acknowledged: Vec::new() }
    }

    /// What is sent now, and to whom.
    pub(crate) fn due(&mut self, now: u64, nodes: &[Token], rng: &mut Rng) -> Vec<(Token, Ticket, Increment)> {
        let mut sent = Vec::new();
        for (index, client) in self.clients.iter_mut().enumerate() {
            if now < client.try_at {
                continue;
            }
            let copies = if rng.one_in(8) { 2 } else { 1 };
            for _ in 0..copies {
                let to = client.leader.take().filter(|to| nodes.contains(to)).unwrap_or_else(|| rng.pick(nodes));
                let ticket = Ticket(self.next);
                self.next += 1;
                self.tickets.insert(ticket, index);
                client.attempts.push(ticket);
                let increment = Increment { client: client.name.clone(), request: client.request };
                sent.push((to, ticket, increment));
            }
            client.try_at = now + 700 + rng.number_below(800);
        }
        sent
    }

    pub(crate) fn replied(&mut self, ticket: Ticket, reply: Result<Counted, Rejection>, now: u64, rng: &mut Rng) {
        let Some(client) = self.tickets.remove(&ticket).map(|index| &mut self.clients[index]) else { return };
        if !client.attempts.contains(&ticket) {
            return;
        }
        match reply {
            Ok(counted) => {
                assert_eq!(counted.request, client.request, "told about another increment");
                self.acknowledged.push((client.name.clone(), counted));
                client.request += 1;
                client.attempts.clear();
                client.try_at = now + rng.number_below(120);
            }
            Err(Rejection::Outdated { last }) => panic!("request {} is older than {last}", client.request),
            Err(Rejection::NotLeading { leader }) => {
                client.leader = leader;
                client.try_at = client.try_at.min(now + 20 + rng.number_below(80));
            }
            Err(Rejection::TakingOver | Rejection::Busy | Rejection::Unknown) => {
                client.try_at = client.try_at.min(now + 50);
            }
        }
    }

    /// The acknowledged increments of each client.
    pub(crate) fn progress(&self) -> Vec<u64> {
        self.clients.iter().map(|client| client.request - 1).collect()
    }
}
