"""`/rerank` in the shapes of Cohere (v1 and v2), Jina and TEI, over models that rank item ids."""
