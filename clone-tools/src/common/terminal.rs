//! What a terminal can show.

/// Returns whether the locale uses UTF-8, from the values of LC_ALL, LC_CTYPE and LANG.
pub fn is_utf8(variables: [String; 3]) -> bool {
    let locale = variables.into_iter().find(|value| !value.is_empty()).unwrap_or_default();
    let locale = locale.to_ascii_uppercase();
    locale.contains("UTF-8") || locale.contains("UTF8")
}
