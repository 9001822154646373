//! `gigastore token`
//!
//! Must never print a secret but once, when it is made.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use gigastore_client::ambient::SystemAmbient;
use gigastore_server::Access;
use gigastore_server::tokens::{Scope, Token as Entry, TokenError, TokenFile};
use serde_json::json;

use crate::context::Globals;
use crate::failure::Failure;
use crate::output::{moment, note, say, say_json, table, would};

/// What to do with tokens.
#[derive(Subcommand)]
pub(crate) enum Token {
    Create(Create),
    Ls(Ls),
    Revoke(Revoke),
}

/// Make a token and print it, once
///
/// The file keeps its hash only. A running service takes the change within a second or two.
///
/// Examples:
///
///   gigastore token create --tokens tokens.json --name trainer --scope demo:write
///
///   gigastore token create --tokens tokens.json --name audit --scope '*:read' --expires 30d
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Create {
    /// The token file; made where it is not there
    #[arg(long, value_name = "FILE", env = "GIGASTORE_TOKENS")]
    tokens: PathBuf,
    /// Whose it is, for people
    #[arg(long)]
    name: String,
    /// What it may do: PROJECT:read, PROJECT:write or PROJECT:admin; * for all projects
    #[arg(long, value_name = "PROJECT:ACCESS", required = true, value_parser = scope)]
    scope: Vec<Scope>,
    /// When it ends, from now on: 12h, 30d
    #[arg(long, value_name = "TIME", value_parser = time)]
    expires: Option<Duration>,
}

/// List the tokens of a file, without their secrets
///
/// Example:
///
///   gigastore token ls --tokens tokens.json
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Ls {
    /// The token file
    #[arg(long, value_name = "FILE", env = "GIGASTORE_TOKENS")]
    tokens: PathBuf,
}

/// Take a token away
///
/// Example:
///
///   gigastore token revoke --tokens tokens.json 1f3a88c2
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Revoke {
    /// The token file
    #[arg(long, value_name = "FILE", env = "GIGASTORE_TOKENS")]
    tokens: PathBuf,
    /// Its id, as `token ls` shows it
    id: String,
}

fn scope(text: &str) -> Result<Scope, String> {
    let (project, access) = text.rsplit_once(':').ok_or_else(|| format!("{text:?} is not PROJECT:ACCESS"))?;
    let access = match access {
        "read" => Access::Read,
        "write" => Access::Write,
        "admin" => Access::Admin,
        other => return Err(format!("{other:?} is not read, write or admin")),
    };
    let project = match project {
        "*" => None,
        name => Some(name.parse().map_err(|error: gigastore_formats::name::NameError| error.to_string())?),
    };
    Ok(Scope { project, access })
}

fn time(text: &str) -> Result<Duration, String> {
    let refuse = || format!("{text:?} is not a time: expected a number and s, m, h or d, such as 30d");
    let unit = text.chars().last().ok_or_else(refuse)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(refuse()),
    };
    let number: u64 = text.strip_suffix(unit).unwrap_or_default().parse().map_err(|_| refuse())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(refuse)
}

fn failure(error: TokenError) -> Failure {
    match &error {
        TokenError::Unknown { .. } => Failure::not_found(error.to_string()),
        TokenError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Failure::not_found(error.to_string())
        }
        _ => Failure::general(error.to_string()),
    }
}

/// Runs a command.
pub(crate) fn run(globals: &Globals, command: Token) -> Result<(), Failure> {
    match command {
        Token::Create(command) => command.run(globals),
        Token::Ls(command) => command.run(globals),
        Token::Revoke(command) => command.run(globals),
    }
}

fn shown(entry: &Entry) -> serde_json::Value {
    json!({ "id": entry.id, "name": entry.name, "scopes": entry.scopes, "expires_ms": entry.expires_ms })
}

impl Create {
    fn run(self, globals: &Globals) -> Result<(), Failure> {
        if globals.dry_run {
            would(globals.format, &format!("add a token named {:?} to {}", self.name, self.tokens.display()));
            return Ok(());
        }
        let expires_ms = self.expires.map(|time| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(now.saturating_add(time).as_millis()).unwrap_or(u64::MAX)
        });
        let ambient = SystemAmbient::shared();
        let made = TokenFile::change(&self.tokens, |file| {
            let id = file.free_id(|| ambient.random() as u32);
            let (entry, text) = Entry::new(self.name, self.scope, expires_ms, ambient.random_bytes(), id);
            file.tokens.push(entry.clone());
            Ok((entry, text))
        });
        let (entry, text) = made.map_err(failure)?;
        if globals.json() {
            let mut document = shown(&entry);
            document["token"] = json!(text);
            say_json(&document);
        } else {
            say(&text);
            if !globals.quiet {
                note(&"this is the only time that it is shown; clients take it from GIGASTORE_TOKEN");
            }
        }
        Ok(())
    }
}

impl Ls {
    fn run(self, globals: &Globals) -> Result<(), Failure> {
        let file = TokenFile::read(&self.tokens).map_err(failure)?;
        if globals.json() {
            say_json(&json!(file.tokens.iter().map(shown).collect::<Vec<_>>()));
            return Ok(());
        }
        let rows: Vec<Vec<String>> = file
            .tokens
            .iter()
            .map(|entry| {
                let scopes: Vec<String> = entry.scopes.iter().map(Scope::to_string).collect();
                let end = entry.expires_ms.map_or_else(|| "never".to_owned(), moment);
                vec![entry.id.clone(), entry.name.clone(), scopes.join(" "), end]
            })
            .collect();
        table(&["id", "name", "scopes", "expires"], &rows);
        Ok(())
    }
}

impl Revoke {
    fn run(self, globals: &Globals) -> Result<(), Failure> {
        if globals.dry_run {
            would(globals.format, &format!("revoke token {} of {}", self.id, self.tokens.display()));
            return Ok(());
        }
        let revoked = TokenFile::change(&self.tokens, |file| file.revoke(&self.id, &self.tokens));
        let gone = revoked.map_err(failure)?;
        if globals.json() {
            say_json(&shown(&gone));
        } else {
            say(&format_args!("revoked {} ({})", gone.id, gone.name));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_and_times_are_read_or_refused() {
        assert_eq!(scope("demo:write").unwrap().to_string(), "demo:write");
        assert_eq!(scope("*:admin").unwrap().to_string(), "*:admin");
        for text in ["demo", "demo:all", "De mo:read", ":read", "a/b:read"] {
            assert!(scope(text).is_err(), "{text}");
        }
        assert_eq!(time("30d").unwrap(), Duration::from_secs(2_592_000));
        for text in ["", "d", "3", "3w", "-1d", "99999999999999999999d", "999999999999999999d"] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
