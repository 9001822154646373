//! The tokenizer of a `tokenizer.json`, and which tokens stand around a document.
//!
//! Truncation and padding that the file asks for are for models' inputs, and are off: every token of a document is
//! kept. Must never give a token that the vocabulary does not have.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use gigastore_formats::digest::Digest;
use gigastore_formats::table::tokens::TokenWidth;
use tokenizers::Tokenizer;

use crate::guard::guarded;

/// Most bytes of a `tokenizer.json`: 256 MiB, seven times the largest in use (36 MB, a quarter of a million tokens).
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

/// Names of tokens that end a text, as published models have them.
const END_OF_TEXT: &[&str] = &["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|end▁of▁sentence|>", "[EOS]"];

/// Which token comes before a document.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Bos {
    /// None.
    #[default]
    None,
    /// This one.
    Token(String),
}

/// Which token comes after a document.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Eos {
    /// The tokenizer's own: `eos_token` of a `tokenizer_config.json` beside it, else the only special token with the
    /// name of an end of text. None where special tokens are added: they say it all.
    #[default]
    Auto,
    /// None.
    None,
    /// This one.
    Token(String),
}

/// What stands around a document.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ends {
    /// The token before it.
    pub bos: Bos,
    /// The token after it.
    pub eos: Eos,
    /// Whether the tokenizer's post-processor adds its own special tokens, as for a model's input.
    pub special_tokens: bool,
}

/// Why a tokenizer can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// Its file can't be read.
    #[error("{path} can't be read")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Its file is too long.
    #[error("{path} has more than {MAX_TOKENIZER_BYTES} bytes: is it a tokenizer.json?")]
    Long {
        /// The file.
        path: String,
    },
    /// The library does not take it.
    #[error("{path} is not a tokenizer.json that the tokenizers library reads: {reason}")]
    Unsound {
        /// The file.
        path: String,
        /// What the library said.
        reason: String,
    },
    /// A token that should stand around documents is not in the vocabulary.
    #[error("{path} has no token {token:?}, which {option} names")]
    NoToken {
        /// The file.
        path: String,
        /// The token.
        token: String,
        /// Who names it.
        option: &'static str,
    },
    /// Nothing says which token ends a text.
    #[error("{path} does not say which token ends a text{}: pass --eos TOKEN, or --eos none", could(candidates))]
    NoEos {
        /// The file.
        path: String,
        /// Special tokens with such names.
        candidates: Vec<String>,
    },
}

/// Names the tokens that could end a text, where there are some.
fn could(candidates: &[String]) -> String {
    match candidates {
        [] => String::new(),
        some => format!(" (perhaps {})", some.join(" or ")),
    }
}

/// Why a document can't be tokenized.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EncodeError {
    /// The library refused it.
    #[error("the tokenizer refused it: {0}")]
    Refused(String),
    /// The library failed over it.
    #[error("the tokenizer failed over it")]
    Failed,
}

/// A tokenizer that is ready.
#[derive(Debug)]
pub struct Encoder {
    tokenizer: Tokenizer,
    digest: Digest,
    bos: Option<(String, u32)>,
    eos: Option<(String, u32)>,
    special_tokens: bool,
    vocab_size: u32,
}

impl Encoder {
    /// Opens a `tokenizer.json`.
    pub fn open(path: &Path, ends: &Ends) -> Result<Self, TokenizerError> {
        let name = || path.display().to_string();
        let bytes = read(path)?;
        let digest = Digest::of(&bytes);
        let unsound = |reason: String| TokenizerError::Unsound { path: name(), reason };
        let mut tokenizer = Tokenizer::from_bytes(&bytes).map_err(|error| unsound(error.to_string()))?;
        tokenizer.with_truncation(None).map_err(|error| unsound(error.to_string()))?;
        tokenizer.with_padding(None);
        let greatest = tokenizer.get_vocab(true).into_values().max();
        let vocab_size = greatest.ok_or_else(|| unsound("its vocabulary is empty".to_owned()))?.checked_add(1);
        let vocab_size = vocab_size.ok_or_else(|| unsound("a token's id is 4294967295".to_owned()))?;
        let find = |token: String, option| match tokenizer.token_to_id(&token) {
            Some(id) => Ok(Some((token, id))),
            None => Err(TokenizerError::NoToken { path: name(), token, option }),
        };
        let bos = match &ends.bos {
            Bos::None => None,
            Bos::Token(token) => find(token.clone(), "--bos")?,
        };
        let eos = match &ends.eos {
            Eos::None => None,
            Eos::Auto if ends.special_tokens => None,
            Eos::Auto => match configured(path)? {
                Some(token) => find(token, "tokenizer_config.json")?,
                None => find(end_of_text(path, &tokenizer)?, "its list of special tokens")?,
            },
            Eos::Token(token) => find(token.clone(), "--eos")?,
        };
        Ok(Self { tokenizer, digest, bos, eos, special_tokens: ends.special_tokens, vocab_size })
    }

    /// Returns the BLAKE3 of the `tokenizer.json`.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns the token before a document and its id.
    pub fn bos(&self) -> Option<(&str, u32)> {
        self.bos.as_ref().map(|(token, id)| (token.as_str(), *id))
    }

    /// Returns the token after a document and its id.
    pub fn eos(&self) -> Option<(&str, u32)> {
        self.eos.as_ref().map(|(token, id)| (token.as_str(), *id))
    }

    /// Tells whether the post-processor adds its own special tokens.
    pub fn special_tokens(&self) -> bool {
        self.special_tokens
    }

    /// Returns a number that every token is below.
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// Returns the narrowest width that holds every token.
    pub fn width(&self) -> TokenWidth {
        TokenWidth::of_vocabulary(self.vocab_size)
    }

    /// Appends the tokens of a document, and those that stand around it.
    pub fn encode(&self, text: &str, into: &mut Vec<u32>) -> Result<(), EncodeError> {
        // The library asserts here and there what a text should be like.
        let encoded = guarded(|| self.tokenizer.encode_fast(text, self.special_tokens));
        let encoded = encoded.map_err(|_| EncodeError::Failed)?;
        let encoded = encoded.map_err(|error| EncodeError::Refused(error.to_string()))?;
        into.extend(self.bos.iter().map(|(_, id)| *id));
        into.extend_from_slice(encoded.get_ids());
        into.extend(self.eos.iter().map(|(_, id)| *id));
        Ok(())
    }

    /// Returns the text of tokens, special ones included.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, EncodeError> {
        let decoded = guarded(|| self.tokenizer.decode(tokens, false));
        decoded.map_err(|_| EncodeError::Failed)?.map_err(|error| EncodeError::Refused(error.to_string()))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TokenizerError> {
    let io = |source| TokenizerError::Io { path: path.display().to_string(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(io)?.take(MAX_TOKENIZER_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_TOKENIZER_BYTES {
        return Err(TokenizerError::Long { path: path.display().to_string() });
    }
    Ok(bytes)
}

/// Returns `eos_token` of the `tokenizer_config.json` beside a tokenizer, where both are there.
fn configured(tokenizer: &Path) -> Result<Option<String>, TokenizerError> {
    let path = tokenizer.with_file_name("tokenizer_config.json");
    if !path.is_file() {
        return Ok(None);
    }
    let unsound = |error: serde_json::Error| TokenizerError::Unsound {
        path: path.display().to_string(),
        reason: error.to_string(),
    };
    let config: serde_json::Value = serde_json::from_slice(&read(&path)?).map_err(unsound)?;
    let token = &config["eos_token"];
    // Either a name, or an added token that has one.
    Ok(token.as_str().or_else(|| token["content"].as_str()).map(str::to_owned))
}

/// Returns the only special token that is named like an end of text.
fn end_of_text(path: &Path, tokenizer: &Tokenizer) -> Result<String, TokenizerError> {
    let special = tokenizer.get_added_tokens_decoder().into_values().filter(|token| token.special);
    let named = special.map(|token| token.content).filter(|name| END_OF_TEXT.contains(&name.as_str()));
    let mut candidates: Vec<String> = named.collect();
    candidates.sort();
    match candidates.pop() {
        Some(token) if candidates.is_empty() => Ok(token),
        last => {
            candidates.extend(last);
            Err(TokenizerError::NoEos { path: path.display().to_string(), candidates })
        }
    }
}
