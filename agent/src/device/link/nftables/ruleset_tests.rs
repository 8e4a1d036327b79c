//! Tests of the guard's table: what counts as the same table.

use super::*;

fn network(text: &str) -> MeshNetwork {
    text.parse::<Ipv4Network>().unwrap().try_into().unwrap()
}

/// As a kernel lists it that names the operation and puts parts in another order, with handles and counts of its own.
fn listed(ruleset: &Ruleset<'_>) -> Found {
    let table = NfTablesMessage::NewTable(TableMessage {
        attributes: vec![
            TableAttribute::Name(table_name(ruleset.interface)),
            TableAttribute::Flags(TableFlags::empty()),
            TableAttribute::Use(2),
            TableAttribute::Handle(7),
        ],
    });
    let chain = |chain| {
        let mut attributes = ruleset.chain(chain);
        attributes.reverse();
        attributes.push(ChainAttribute::Handle(1));
        NfTablesMessage::NewChain(ChainMessage { attributes })
    };
    let rule = |mut rule: Vec<Expression>| {
        for expression in &mut rule {
            if let ListAttribute::Element(attributes) = expression
                && let Some(ExpressionAttribute::Data(Expressions::Bitwise(parts))) = attributes.last_mut()
            {
                parts.insert(3, Bitwise::Op(MASK_AND_XOR));
                parts.reverse();
            }
        }
        NfTablesMessage::NewRule(RuleMessage {
            attributes: vec![RuleAttribute::Handle(3), RuleAttribute::Expressions(rule)],
        })
    };
    Found {
        table,
        chains: CHAINS.map(chain).to_vec(),
        rules: CHAINS.map(|chain| ruleset.rules(chain).map(rule).to_vec()).to_vec(),
    }
}

#[test]
fn what_the_kernel_tells_of_our_table_is_our_table() {
    for (name, text) in [("mesh0", "10.0.1.0/24"), ("fifteen-bytes-x", "172.16.0.0/16"), ("m", "10.1.2.8/29")] {
        let ruleset = Ruleset::new(name, network(text));
        let found = listed(&ruleset);
        assert!(ruleset.is(&found), "{name} {text}");
        assert_eq!(found.network(), Some(network(text)));
        assert!(!Ruleset::new("other0", network(text)).is(&found), "another interface's");
        assert!(!Ruleset::new(name, network("10.0.2.0/24")).is(&found), "another network's");
    }
}

#[test]
fn whatever_was_changed_is_another_table() {
    type Spoil = fn(&mut Found);
    let spoiled: [(&str, Spoil); 9] = [
        ("dormant", |found| {
            let NfTablesMessage::NewTable(table) = &mut found.table else { panic!() };
            table.attributes[1] = TableAttribute::Flags(TableFlags::Dormant);
        }),
        ("a chain more", |found| {
            let NfTablesMessage::NewTable(table) = &mut found.table else { panic!() };
            table.attributes[2] = TableAttribute::Use(3);
        }),
        ("a chain less", |found| drop(found.chains.pop())),
        ("no rules", |found| found.rules[1].clear()),
        ("a rule less", |found| drop(found.rules[0].pop())),
        ("a rule twice", |found| {
            let first = found.rules[0][0].clone();
            found.rules[0].push(first);
        }),
        ("another order", |found| found.rules[1].swap(0, 1)),
        ("another policy", |found| {
            let NfTablesMessage::NewChain(chain) = &mut found.chains[0] else { panic!() };
            let policy = chain.attributes.iter_mut().find(|is| matches!(is, ChainAttribute::Policy(_))).unwrap();
            *policy = ChainAttribute::Policy(0);
        }),
        ("a rule that accepts", |found| {
            let NfTablesMessage::NewRule(rule) = &mut found.rules[0][0] else { panic!() };
            let RuleAttribute::Expressions(expressions) = rule.attributes.last_mut().unwrap() else { panic!() };
            let verdict = DataAttribute::Verdict(vec![VerdictAttribute::Code(Verdict::Other(ACCEPT))]);
            let parts = vec![Immediate::DestinationRegister(Register::Verdict), Immediate::Data(verdict)];
            *expressions.last_mut().unwrap() = Expressions::Immediate(parts).into();
        }),
    ];
    let ruleset = Ruleset::new("mesh0", network("10.0.1.0/24"));
    for (what, spoil) in spoiled {
        let mut found = listed(&ruleset);
        spoil(&mut found);
        assert!(!ruleset.is(&found), "{what}");
    }
}
