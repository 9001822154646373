//! The command line of this process, as a version of a dataset remembers it.
//!
//! Must never hold the store: its URL may say more of a place than readers of a dataset should know.

/// Bytes of a command line that are kept: 16 KiB; a shell may have made megabytes of one pattern.
const MOST_BYTES: usize = 16 << 10;

/// Returns the command line, quoted for a shell, without `--store`.
pub(super) fn command_line() -> String {
    joined(std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()))
}

fn joined(arguments: impl Iterator<Item = String>) -> String {
    let mut line = String::from("gigastore");
    let mut arguments = arguments.skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--store" {
            arguments.next();
            continue;
        }
        if argument.starts_with("--store=") {
            continue;
        }
        let plain = |c: char| c.is_alphanumeric() || "-_./:=@,+%".contains(c);
        let quoted = match !argument.is_empty() && argument.chars().all(plain) {
            true => argument,
            false => format!("'{}'", argument.replace('\'', r"'\''")),
        };
        if line.len() + quoted.len() + 1 > MOST_BYTES {
            line.push_str(" …");
            break;
        }
        line.push(' ');
        line.push_str(&quoted);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_is_left_out_and_the_rest_can_be_pasted() {
        let line = ["/usr/bin/gigastore", "--store", "s3://a", "data", "push", "a b.parquet", "it's", "--store=x", ""];
        assert_eq!(joined(line.into_iter().map(str::to_owned)), r"gigastore data push 'a b.parquet' 'it'\''s' ''");
        let long = std::iter::once("x".to_owned()).chain((0..9000).map(|i| i.to_string()));
        assert!(joined(long).len() < MOST_BYTES + 8);
    }
}
