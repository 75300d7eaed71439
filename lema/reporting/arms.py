"""The arms of a comparison, and the differences between them that mean something."""

# Arm -> its meaning, in the order of the tables. The first four have a column before they are run.
ARMS = {
    "cot": "CoT alone",
    "cot_random": "CoT + CoT of random questions",
    "cot_matched": "CoT + CoT of the failed questions",
    "lema": "CoT + corrections of the failed questions",
    "cot_repeated": "CoT + the same CoT again",
    "cot_tokens": "cot_matched + CoT of random questions",
    "lema_32k": "corrections in place of some CoT",
    "lema_no_step": "lema, the incorrect step not named",
    "lema_no_explanation": "lema, nothing explained",
    "lema_no_solution": "lema, no corrected solution",
    "corrections": "corrections alone",
    "lema_random": "CoT + corrections of another model's mistakes",
}
STANDARD = list(ARMS)[:4]
CONTRASTS = {
    ("lema", "cot"): "the paper's headline; it flatters, lema has more training data",
    ("lema", "cot_matched"): "size-matched, the same failed questions: what the text of the correction adds",
    ("lema", "cot_random"): "size-matched, random questions",
    ("cot_matched", "cot_random"): "which questions: failed ones against random ones, both as CoT",
    ("lema", "cot_repeated"): "as many examples, of fewer questions",
    ("lema", "cot_tokens"): "as many training tokens",
    ("lema_32k", "cot"): "as many examples: corrections in place of some",
    ("lema", "lema_no_step"): "what naming the incorrect step adds",
    ("lema", "lema_no_explanation"): "what the explanation adds",
    ("lema", "lema_no_solution"): "what the corrected solution adds",
    ("lema", "corrections"): "what the CoT examples add",
    ("lema", "lema_random"): "as many corrections: whose mistakes they are",
}
UNTUNED = "untuned"
