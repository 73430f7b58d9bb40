"""The cloud tier: full torch models, the factory that makes both tiers' models, the server."""
