//! `lictor tokens`: API tokens of the hub. They decide what may be seen and queued, never what runs.

use lictor_proto::Timestamp;
use lictor_proto::api;
use serde_json::json;

use crate::args::{NewToken, Tokens, TokensCommand};
use crate::escape::escape;
use crate::exit::Status;
use crate::failure::Result;
use crate::out::table;
use crate::session::{Session, failed};

pub(crate) async fn run(session: &Session, args: &Tokens) -> Result {
    let hub = session.hub()?;
    match &args.command {
        TokensCommand::Ls => {
            let tokens = hub.tokens().await.map_err(|e| failed("list the tokens", &e))?;
            let shown =
                |t: Option<Timestamp>| t.map_or_else(|| "-".to_owned(), |t| t.to_string()[..19].to_owned());
            session.out.either(&tokens, || {
                let rows: Vec<_> = tokens
                    .iter()
                    .map(|t| {
                        vec![
                            escape(&t.token_id),
                            format!("{:?}", t.scope).to_lowercase(),
                            shown(t.expires_at),
                            shown(t.last_used_at),
                            t.requests_per_second
                                .map_or_else(|| "-".to_owned(), |n| format!("{n}/s")),
                            escape(&t.label),
                        ]
                    })
                    .collect();
                table(&["id", "scope", "expires", "last used", "rate", "label"], &rows)
            })?;
        }
        TokensCommand::New(new) => {
            let created = hub
                .new_token(&request(new))
                .await
                .map_err(|e| failed("make a token", &e))?;
            session.out.either(&created, || {
                session
                    .out
                    .note("this secret is shown once; only its hash is kept");
                escape(&created.secret)
            })?;
        }
        TokensCommand::Revoke { id } => {
            hub.revoke_token(id)
                .await
                .map_err(|e| failed("revoke the token", &e))?;
            session
                .out
                .either(&json!({ "revoked": id }), || format!("revoked {}", escape(id)))?;
        }
    }
    Ok(Status::OK)
}

fn request(new: &NewToken) -> api::NewToken {
    api::NewToken {
        label: new.label.clone(),
        scope: new.scope.into(),
        expires_at: new.ttl.map(|ttl| Timestamp::now().plus(ttl)),
        requests_per_second: new.rate,
    }
}
