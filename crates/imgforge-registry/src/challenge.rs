//! `WWW-Authenticate`: how a registry wants to be asked (RFC 9110, section 11.6.1).

/// One way to authenticate that a server offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// `basic` or `bearer`, in small letters.
    pub(crate) scheme: String,
    /// Names in small letters, in the order they came.
    parameters: Vec<(String, String)>,
}

impl Challenge {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The same for other requests than the one that it answers.
    pub(crate) fn without(&self, name: &str) -> Self {
        let others = self.parameters.iter().filter(|(key, _)| key != name);
        Self { scheme: self.scheme.clone(), parameters: others.cloned().collect() }
    }
}

/// All challenges of one header; what is no challenge is passed over.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let length = rest.bytes().take_while(|b| is_token(*b)).count();
        if length == 0 {
            // No token where one must be: on with what follows the next comma.
            let Some(comma) = rest.find(',') else { return challenges };
            rest = &rest[comma..];
            continue;
        }
        let word = rest[..length].to_ascii_lowercase();
        let after = rest[length..].trim_start_matches([' ', '\t']);
        match after.strip_prefix('=') {
            // `token68` ends in any number of `=`: nothing that we know uses it.
            Some(value) if !value.starts_with('=') => {
                let (value, after) = read_value(value.trim_start_matches([' ', '\t']));
                if let Some(challenge) = challenges.last_mut() {
                    challenge.parameters.push((word, value));
                }
                rest = after;
            }
            Some(_) => rest = after.trim_start_matches('='),
            None => {
                challenges.push(Challenge { scheme: word, parameters: Vec::new() });
                rest = after;
            }
        }
    }
}

/// A token or a quoted string, and what follows it.
fn read_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let length = text.bytes().take_while(|b| !matches!(b, b',' | b' ' | b'\t')).count();
        return (text[..length].to_owned(), &text[length..]);
    };
    let mut value = String::new();
    let mut is_escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            _ if is_escaped => {
                value.push(c);
                is_escaped = false;
            }
            '\\' => is_escaped = true,
            '"' => return (value, &quoted[at + 1..]),
            c => value.push(c),
        }
    }
    (value, "")
}

fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn challenges_of_registries_are_read() {
        let found = parse(
            "Bearer realm=\"https://auth.example.com/token\",service=\"registry.example.com\", \
             scope=\"repository:a/b:pull,push\" , error=invalid_token",
        );
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].scheme, "bearer");
        assert_eq!(found[0].get("realm"), Some("https://auth.example.com/token"));
        assert_eq!(found[0].get("scope"), Some("repository:a/b:pull,push"));
        assert_eq!(found[0].get("error"), Some("invalid_token"));

        let found = parse("Negotiate, Basic realm=\"a \\\"b\\\", c\", BEARER Realm = x");
        let schemes: Vec<&str> = found.iter().map(|c| c.scheme.as_str()).collect();
        assert_eq!(schemes, ["negotiate", "basic", "bearer"]);
        assert_eq!(found[1].get("realm"), Some("a \"b\", c"));
        assert_eq!(found[2].get("realm"), Some("x"));
        assert!(parse("").is_empty());
        assert!(parse("\"x\", =").is_empty());
    }

    proptest! {
        #[test]
        fn any_header_is_read_to_its_end(header in "\\PC{0,80}") {
            parse(&header);
        }

        #[test]
        fn any_value_survives_quoting(values in prop::collection::vec("[ -~]{0,20}", 1..4)) {
            let quoted: Vec<String> = values
                .iter()
                .enumerate()
                .map(|(n, value)| format!("p{n}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")))
                .collect();
            let found = parse(&format!("Bearer {}, Basic realm=\"x\"", quoted.join(",")));
            prop_assert_eq!(found.len(), 2);
            for (n, value) in values.iter().enumerate() {
                prop_assert_eq!(found[0].get(&format!("p{n}")), Some(value.as_str()));
            }
        }
    }
}
