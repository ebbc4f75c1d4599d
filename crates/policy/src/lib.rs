//! Who may talk to whom, and in which mode. Pure: plain data in, verdicts out.
//!
//! What this is not: it reads no file and knows no kernel. Main types: [`EffectiveMode`], the resolved PeerAuthentication;
//! [`RuleSet`], the compiled policies; [`Verdict`], what they say of a [`Flow`].
//!
//! ```
//! use policy::{Labels, Mode, PeerAuthentication, resolve};
//!
//! let strict = PeerAuthentication {
//!     namespace: "shop".to_owned(),
//!     name: "default".to_owned(),
//!     created: 1,
//!     selector: None,
//!     mode: Some(Mode::Strict),
//!     ports: Default::default(),
//!     outbound: None,
//! };
//! let effective = resolve([&strict], "shop", &Labels::new(), "weft-system");
//! assert!(effective.refuses_clear_at(8080));
//! assert!(!resolve([&strict], "elsewhere", &Labels::new(), "weft-system").is_strict());
//! ```

pub mod authorization_policy;
pub mod blocks;
pub mod cluster_policy;
pub mod compile;
pub mod enrolment;
pub mod manifest;
pub mod mode;
pub mod network_policy;
pub mod nft;
pub mod question;
pub mod rule_set;
pub mod selector;
pub mod verdict;
pub mod workload;

pub use authorization_policy::{AuthorizationAction, AuthorizationPolicy, AuthorizationRule, PeerTerms, Target};
pub use blocks::Blocks;
pub use cluster_policy::{ClusterAction, ClusterPeer, ClusterPolicy, ClusterPort, ClusterRule, ClusterTier, PodsOf};
pub use compile::{Compiler, Policies};
pub use enrolment::{MESH_LABEL, is_enrolled};
pub use mode::{EffectiveMode, Mode, Outbound, PeerAuthentication, resolve, resolve_from};
pub use network_policy::{NetworkPeer, NetworkPolicy, NetworkPort, NetworkRule};
pub use question::{Party, QuestionError, Service};
pub use rule_set::RuleSet;
pub use selector::{Expression, Labels, Selector};
pub use verdict::{Decision, Direction, End, Flow, PolicyKind, PolicyRef, Reason, RuleRef, Verdict};
pub use workload::{NamedPort, Node, Protocol, Workload, WorkloadId, World};
