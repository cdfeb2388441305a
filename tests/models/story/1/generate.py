import numpy as np


def generate(inputs, model):
    text, count = inputs["text_input"][0], int(inputs["max_tokens"][0])
    if count < 0:
        raise ValueError("max_tokens must be zero or more")
    letter = text[-1] if text else ord(" ")
    for number in range(count):
        letter = model(letter=np.array([letter], np.int64))["next_letter"][0]
        if text == b"stop" and number == 2:
            raise RuntimeError("for tests of this")
        yield {"text_output": [chr(letter)]}
