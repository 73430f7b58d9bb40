"""The models: baselines that any trained model must beat, and SASRec for both tiers."""
