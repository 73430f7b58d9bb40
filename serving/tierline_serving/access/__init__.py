"""Who may do what here: bearer keys with scopes, rate limits, and an audit log that shows edits."""
