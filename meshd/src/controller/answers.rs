//! What the controller answers people: tokens, identities taken back and given again, and how it is.

use anyhow::Context as _;
use identity::{JoinToken, NodeName, SpiffeId};
use ring::rand::SecureRandom as _;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{Controller, registry};
use crate::clock::wall;
use crate::line_socket::Asked;
use crate::metrics;

impl Controller {
    /// Answers one question of the admin socket.
    pub(super) fn answer(&mut self, asked: Asked) {
        let question: Value = serde_json::from_slice(&asked.line).unwrap_or_default();
        let line = match self.answer_verb(&question) {
            Ok(result) => json!({"ok": true, "result": result}),
            Err(error) => json!({"ok": false, "error": format!("{error:#}")}),
        };
        // whoever asked may have gone
        let _gone = asked.reply.send(line.to_string().into_bytes());
    }

    fn answer_verb(&mut self, question: &Value) -> anyhow::Result<Value> {
        let text = |key: &str| question.get(key).and_then(Value::as_str);
        match text("verb").unwrap_or_default() {
            "token" => {
                let node: NodeName = text("node").context("name the node that the token is for")?.parse()?;
                self.make_token(node)
            }
            "revoke" | "restore" => {
                let identity: SpiffeId = text("identity").context("name the identity")?.parse()?;
                let revoked = text("verb") == Some("revoke");
                let changed = self.registry.set_revoked(identity, revoked);
                self.behind |= changed;
                self.write_registry()?;
                Ok(json!({"changed": changed}))
            }
            "status" => Ok(self.status()),
            "metrics" => Ok(Value::String(metrics::of_controller(&self.status()))),
            verb => anyhow::bail!("there is no verb `{verb}`: token, revoke, restore, status, metrics"),
        }
    }

    fn status(&self) -> Value {
        json!({
            "trust_domain": self.trust_domain,
            "healthy": self.unvouched.is_none(),
            "unvouched": self.unvouched,
            "nodes": self.registry.nodes().map(|n| n.0.clone()).collect::<Vec<_>>(),
            "revoked": self.registry.revoked(),
            "outside": self.outside.told().map(|(node, pod)| json!({"node": node, "pod": pod})).collect::<Vec<_>>(),
            "refused": self.refused_claims.iter().map(|(n, r)| json!({"node": n, "reason": r})).collect::<Vec<_>>(),
        })
    }

    fn make_token(&mut self, node: NodeName) -> anyhow::Result<Value> {
        let mut random = Zeroizing::new([0; 40]);
        let fill = ring::rand::SystemRandom::new().fill(random.as_mut_slice());
        fill.map_err(|_nothing| anyhow::anyhow!("the kernel has no random numbers for us"))?;
        let token = JoinToken::generate(random, self.issuer.bundle().root_fingerprint());
        self.registry.add_token(&token, node.clone(), wall());
        self.write_registry()?;
        tracing::info!(%node, token = token.id(), "Join token made");
        Ok(json!({"node": node, "token": token.expose_text().as_str(), "expires_in_s": registry::TOKEN_SECONDS}))
    }
}
