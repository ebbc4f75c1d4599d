//! `meshctl identity`, `svid` and `binding`: who lives on a node, and what the issuer signed for them, verified here.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use ::identity::binding::{CLOCK_SKEW, SignedBinding};
use ::identity::bundle::TrustBundle;
use ::identity::sign::Verifier;
use ::identity::{TrustDomain, UnixTime};
use anyhow::{Context as _, bail, ensure};
use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admin_reply::LocalIdentity;
use crate::screen::{self, Format};
use crate::target::{self, ControllerTarget, NodeTarget};

/// `meshctl identity`.
#[derive(Debug, Subcommand)]
pub(crate) enum IdentityVerb {
    /// The identities on a node: SPIFFE ID, pods, key fingerprints.
    Show(ShowArgs),
    /// Withdraws an identity's bindings: its sessions end on every node.
    Revoke(RevokeArgs),
    /// Lets a withdrawn identity have bindings again.
    Restore(RevokeArgs),
}

/// `meshctl svid` and `meshctl binding`.
#[derive(Debug, Subcommand)]
pub(crate) enum ProofVerb {
    /// Prints it, and whether it verifies.
    Show(ShowArgs),
}

/// Which identities, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// A SPIFFE ID, or namespace/serviceaccount; all where absent.
    #[arg(value_name = "IDENTITY")]
    identity: Option<String>,
    /// Of the pods with these labels alone, as kubectl takes a selector: app=web,tier!=cache. In a cluster.
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    #[command(flatten)]
    target: NodeTarget,
    /// The folder of manifests, where the issuer's certificates are [default: the lab's]
    #[arg(long, env = "WEFT_DIRECTORY", value_name = "DIR")]
    directory: Option<PathBuf>,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Whose bindings.
#[derive(Debug, clap::Args)]
pub(crate) struct RevokeArgs {
    /// The SPIFFE ID.
    #[arg(value_name = "SPIFFE-ID")]
    identity: String,
    #[command(flatten)]
    target: ControllerTarget,
}

impl IdentityVerb {
    /// Does what was asked.
    ///
    /// # Errors
    /// A daemon does not answer, or there is no such identity.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        match self {
            Self::Show(args) => show(args),
            Self::Revoke(args) => revoke(args, "revoke"),
            Self::Restore(args) => revoke(args, "restore"),
        }
    }
}

fn revoke(args: &RevokeArgs, verb: &str) -> anyhow::Result<()> {
    let question = json!({ "verb": verb, "identity": args.identity });
    let result = args.target.door()?.ask(&question)?;
    let changed = result.get("changed").and_then(Value::as_bool).unwrap_or(true);
    let done = if verb == "revoke" { "withdrawn" } else { "restored" };
    let already = if changed { "" } else { " already" };
    screen::out(&format!("{} is {done}{already}", args.identity))
}

/// The rows meant by the arguments.
fn rows(args: &ShowArgs) -> anyhow::Result<Vec<LocalIdentity>> {
    let mut rows: Vec<LocalIdentity> = target::ask_rows(&args.target.doors()?, "identity")?;
    if let Some(wanted) = &args.identity {
        let names: Vec<String> = rows.iter().map(|r| r.spiffe_id.clone()).collect();
        rows.retain(|r| is_meant(wanted, &r.spiffe_id));
        if rows.is_empty() {
            bail!("no identity {wanted} lives there; there are: {}", names.join(", "));
        }
    }
    if let Some(selector) = &args.selector {
        let labelled = args.target.labelled(selector)?;
        rows.retain(|row| row.pods.iter().any(|pod| labelled.contains(pod)));
        ensure!(!rows.is_empty(), "none of the {} pods with {selector} is in the mesh", labelled.len());
    }
    Ok(rows)
}

/// `spiffe://td/ns/a/sa/b` is meant by itself and by `a/b`.
fn is_meant(wanted: &str, spiffe_id: &str) -> bool {
    let short = wanted.split_once('/').map(|(namespace, account)| format!("/ns/{namespace}/sa/{account}"));
    wanted == spiffe_id || short.is_some_and(|s| spiffe_id.ends_with(&s))
}

fn show(args: &ShowArgs) -> anyhow::Result<()> {
    let rows = rows(args)?;
    if args.output == Format::Json {
        return screen::out_json(&rows);
    }
    let mut blocks = Vec::new();
    for row in &rows {
        let pods = if row.pods.is_empty() { "the node itself".to_owned() } else { row.pods.join(", ") };
        let mut block = format!("{}\n  on {}: {pods}", screen::strong(&row.spiffe_id), row.node);
        for print in &row.fingerprints {
            let bound = if print.bound { screen::good("bound") } else { screen::bad("not bound") };
            block.push_str(&format!("\n  key of epoch {}: {}  {bound}", print.epoch, print.key));
        }
        blocks.push(block);
    }
    screen::out(&blocks.join("\n\n"))
}

/// `meshctl svid show`.
///
/// # Errors
/// A daemon does not answer, or one of the SVIDs does not verify.
pub(crate) fn show_svids(ProofVerb::Show(args): &ProofVerb) -> anyhow::Result<bool> {
    let verifier = verifier(&args.target.trust(args.directory.as_deref())?)?;
    let prove = |row: &LocalIdentity| {
        let Some(chain) = &row.svid else { return Proof::missing(row, "X.509-SVID") };
        let verified = verifier.verify_svid(chain, now(), CLOCK_SKEW);
        let facts = verified
            .as_ref()
            .map(|s| format!("URI {}\nvalid from {} to {}", s.spiffe_id, date(s.not_before), date(s.not_after)));
        Proof::of(row, chain, facts.map_err(ToString::to_string))
    };
    print(args, rows(args)?.iter().map(prove).collect())
}

/// `meshctl binding show`.
///
/// # Errors
/// A daemon does not answer, or one of the bindings does not verify.
pub(crate) fn show_bindings(ProofVerb::Show(args): &ProofVerb) -> anyhow::Result<bool> {
    let verifier = verifier(&args.target.trust(args.directory.as_deref())?)?;
    let prove = |row: &LocalIdentity| {
        let Some(text) = &row.binding else { return Proof::missing(row, "binding") };
        let verify = || -> Result<String, String> {
            let signed = SignedBinding::decode(text).map_err(|e| e.to_string())?;
            verifier.verify_binding(&signed, now(), CLOCK_SKEW).map_err(|e| e.to_string())?;
            let b = signed.binding;
            let key: String = b.public_key.iter().map(|byte| format!("{byte:02x}")).collect();
            Ok(format!(
                "key {key} is {}\non node {} (UID {}), epoch {}\nvalid from {} to {}",
                b.spiffe_id,
                b.node,
                b.node_uid,
                b.epoch.0,
                date(b.not_before),
                date(b.not_after)
            ))
        };
        Proof::of(row, text, verify())
    };
    print(args, rows(args)?.iter().map(prove).collect())
}

/// Something that the issuer signed, and whether it verifies.
struct Proof {
    spiffe_id: String,
    text: String,
    /// What it says, or why it is not believed.
    verified: Result<String, String>,
}

impl Proof {
    fn of(row: &LocalIdentity, text: &str, verified: Result<String, String>) -> Self {
        Self { spiffe_id: format!("{} on {}", row.spiffe_id, row.node), text: text.to_owned(), verified }
    }

    fn missing(row: &LocalIdentity, what: &str) -> Self {
        Self::of(row, "", Err(format!("the issuer has signed no {what} for it")))
    }
}

fn print(args: &ShowArgs, proofs: Vec<Proof>) -> anyhow::Result<bool> {
    let is_well = proofs.iter().all(|p| p.verified.is_ok());
    match args.output {
        Format::Json => {
            let row = |p: &Proof| {
                json!({
                    "identity": p.spiffe_id,
                    "verified": p.verified.is_ok(),
                    "facts": p.verified.as_ref().unwrap_or_else(|e| e),
                    "text": p.text,
                })
            };
            screen::out_json(&proofs.iter().map(row).collect::<Vec<_>>())?;
        }
        Format::Text => {
            let block = |p: &Proof| {
                let (verdict, facts) = match &p.verified {
                    Ok(facts) => (screen::good("verified against the issuer's certificates"), facts),
                    Err(why) => (screen::bad("NOT believed"), why),
                };
                format!("{}\n{verdict}\n{facts}\n{}", screen::strong(&p.spiffe_id), p.text.trim())
            };
            screen::out(&proofs.iter().map(block).collect::<Vec<_>>().join("\n\n"))?;
        }
    }
    Ok(is_well)
}

/// The MeshTrust that the controller publishes.
#[derive(Deserialize)]
struct Trust {
    spec: TrustSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TrustSpec {
    trust_domain: String,
    root: String,
    intermediate: String,
}

/// What signatures are verified with, from the bundle file; its root is taken as given, since a person looks here.
fn verifier(manifest: &str) -> anyhow::Result<Verifier> {
    let trust: Trust = serde_saphyr::from_str(manifest).context("the issuer's certificates are no MeshTrust")?;
    let domain: TrustDomain = trust.spec.trust_domain.parse()?;
    let bundle = TrustBundle::from_pem(domain, &trust.spec.root, &trust.spec.intermediate)?;
    Ok(bundle.verify(bundle.root_fingerprint(), now())?)
}

fn now() -> UnixTime {
    UnixTime(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
}

fn date(time: UnixTime) -> String {
    let stamp = i64::try_from(time.0).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    stamp.map_or_else(|| time.0.to_string(), |s| s.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_meant_by_its_name_and_by_its_short_form() {
        let id = "spiffe://weft.lab/ns/demo/sa/client";
        assert!(is_meant(id, id) && is_meant("demo/client", id));
        assert!(!is_meant("emo/client", id) && !is_meant("client", id) && !is_meant("demo/clien", id));
    }
}
