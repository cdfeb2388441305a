import numpy as np


def postprocess(outputs, inputs):
    score = outputs["score"]
    words = np.where(score > 0, "glad", np.where(score < 0, "sad", "calm"))
    return {"mood": words, "score": score}
