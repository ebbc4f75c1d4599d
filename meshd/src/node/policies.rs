//! Policies on this node: followed as the cluster changes, and compiled for its workloads.

use std::collections::BTreeSet;
use std::net::IpAddr;

use plan::{ClusterView, Here, LocalAttachment, policies};
use policy::nft::{self, Program, Scribe};
use policy::{Compiler, Policies, RuleSet};

/// What the rules were compiled from, and the rules.
#[derive(Default)]
pub(super) struct PolicyState {
    compiler: Compiler,
    scribe: Scribe,
    seen: Option<Seen>,
    /// What the judge reads, so that a refusal can be explained.
    rules: RuleSet,
    program: Program,
}

/// What rules depend on, as far as it is cheap to compare.
#[derive(PartialEq)]
struct Seen {
    view: u64,
    attachments: Vec<LocalAttachment>,
    addresses: BTreeSet<IpAddr>,
    members: BTreeSet<IpAddr>,
}

impl PolicyState {
    /// Compiles anew where something changed; `view_number` counts the view's changes. Whether the rules are others now.
    pub(super) fn follow(
        &mut self,
        view: &ClusterView,
        view_number: u64,
        here: &Here,
        members: BTreeSet<IpAddr>,
    ) -> bool {
        let (attachments, addresses) = (here.attachments.clone(), here.addresses.clone());
        let seen = Seen { view: view_number, attachments, addresses, members };
        if self.seen.as_ref() == Some(&seen) {
            return false;
        }
        let before = std::mem::take(&mut self.program);
        if view.has_policies() {
            let world = policies::world(view, here);
            self.rules = self.compiler.compile(&policies::policies(view), &world, Some(&here.node.0));
            self.program = self.scribe.program(&self.rules, &nft::Here { node: &here.node.0, members: &seen.members });
        } else {
            (self.rules, self.program) = (RuleSet::default(), Program::default());
        }
        self.seen = Some(seen);
        before != self.program
    }

    /// What the kernel is to hold.
    pub(super) fn program(&self) -> &Program {
        &self.program
    }

    /// What the judge reads: who is there, and what is applied to whoever is here.
    pub(super) fn rules(&self) -> &RuleSet {
        &self.rules
    }

    /// The same also where there is no policy, so that names are known.
    pub(super) fn rules_or_world(&self, view: &ClusterView, here: &Here) -> RuleSet {
        if view.has_policies() {
            return self.rules.clone();
        }
        Compiler::default().compile(&Policies::default(), &policies::world(view, here), Some(&here.node.0))
    }

    /// Whether a packet between these two is proven to be from whom its address says: both are members.
    pub(super) fn is_proven(&self, source: IpAddr, destination: IpAddr) -> bool {
        let members = self.seen.as_ref().map(|seen| &seen.members);
        members.is_some_and(|members| members.contains(&source) && members.contains(&destination))
    }
}
