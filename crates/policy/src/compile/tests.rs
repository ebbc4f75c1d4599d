//! The compiler and the judge against a judge that reads the policies themselves, word by word; and what must hold for all.

pub(crate) mod naive;
mod worlds;

use std::sync::Arc;

use proptest::prelude::*;

use self::worlds::{flows, policies, world};
use super::*;
use crate::verdict::Flow;

fn compile(policies: &Policies, world: &World) -> RuleSet {
    Compiler::default().compile(policies, world, None)
}

/// Every flow between the ends of a world, to the ports that policies may name.
fn judged(rules: &RuleSet, world: &World) -> Vec<(Flow, bool)> {
    flows(world).into_iter().map(|flow| (flow.clone(), rules.judge(&flow).is_allowed())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn compiled_rules_say_what_the_policies_say(policies in policies(), world in world()) {
        let rules = compile(&policies, &world);
        for flow in flows(&world) {
            let expected = naive::is_allowed(&policies, &world, &flow);
            let verdict = rules.judge(&flow);
            prop_assert_eq!(verdict.is_allowed(), expected, "{:?}\n{:?}", flow, verdict);
        }
    }

    #[test]
    fn after_any_change_it_is_as_compiled_from_scratch(
        two in [policies(), policies()], steps in proptest::collection::vec((0usize..2, world()), 2..5),
    ) {
        let mut compiler = Compiler::default();
        for (which, world) in &steps {
            let policies = &two[*which];
            let rules = compiler.compile(policies, world, None);
            prop_assert_eq!(&rules, &compile(policies, world));
            // once more: nothing is made anew
            let again = compiler.compile(policies, world, None);
            prop_assert!(again.sets.iter().all(|(key, set)| Arc::ptr_eq(set, &rules.sets[key])));
            prop_assert!(again.chains.iter().all(|(key, chain)| Arc::ptr_eq(chain, &rules.chains[key])));
        }
    }

    #[test]
    fn one_more_rule_of_a_network_policy_takes_nothing_away(
        mut policies in policies(), more in policies(), world in world(),
    ) {
        let before = judged(&compile(&policies, &world), &world);
        let rules: Vec<_> = more.network.iter().flat_map(|p| p.ingress.clone()).flatten().collect();
        for policy in policies.network.iter_mut().map(Arc::make_mut) {
            policy.ingress.iter_mut().chain(policy.egress.iter_mut()).for_each(|list| list.extend(rules.clone()));
        }
        let after = judged(&compile(&policies, &world), &world);
        for ((flow, before), (_, after)) in before.into_iter().zip(after) {
            prop_assert!(!before || after, "{flow:?} was allowed");
        }
    }

    #[test]
    fn an_audit_changes_no_verdict_and_a_deny_never_opens(
        policies in policies(), more in policies(), world in world(),
    ) {
        let before = judged(&compile(&policies, &world), &world);
        let with = |action| {
            let mut policies = policies.clone();
            let mut added = more.authorization.clone();
            for policy in added.iter_mut().map(Arc::make_mut) {
                policy.action = action;
                policy.name.push_str("-added");
            }
            policies.authorization.extend(added);
            judged(&compile(&policies, &world), &world)
        };
        prop_assert_eq!(&before, &with(AuthorizationAction::Audit));
        for ((flow, before), (_, after)) in before.into_iter().zip(with(AuthorizationAction::Deny)) {
            prop_assert!(before || !after, "{flow:?} was denied");
        }
    }

    #[test]
    fn a_claim_without_proof_never_gets_further_than_one_with(policies in policies(), world in world()) {
        let rules = compile(&policies, &world);
        // NetworkPolicy is about addresses: only what AuthorizationPolicy decides may depend on proof
        for flow in flows(&world).into_iter().filter(|flow| !flow.proven) {
            let proven = rules.judge(&Flow { proven: true, ..flow.clone() });
            let claimed = rules.judge(&flow);
            prop_assert!(proven.is_allowed() || !claimed.is_allowed(), "{flow:?}");
        }
    }
}
