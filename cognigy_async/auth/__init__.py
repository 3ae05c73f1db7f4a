"""Sources of credentials; `oauth` decides when a token is refreshed, `refresh` carries it out."""
