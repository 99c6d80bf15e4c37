"""The words between the tables of docs/evidence.md; figures are in the tables alone."""

TRAININGS = (
    "Training 0 is that of the shipped weights, in bf16 on a processor that multiplies it; the others were "
    "in fp32, as the processors that they had do not. All else is the same but the seeds."
)
READING = (
    "Mean over the trainings, 95 % intervals over images and trainings, `*`: the difference to greedy has an "
    "interval without 0; an arrow in the picture: too far to the right to be drawn. CHAIR and recall in "
    "percent, length in words, objects in mentions an answer."
    " Tokens a second move with what else the machine does; `python -m benchmarks.overhead` measures cost."
)
FRONTIER = (
    "Every setting that a method tried on the 200 validation scenes of training 0 "
    "(`runs/evidence/training-0/tuning.json`). Settings outside the picture destroy the "
    "captions; those under which no object is named have no CHAIR_i."
)
GRID = (
    "Contrast with one readout at every token, validation scenes, training 0 (`runs/evidence/alpha-layer`). "
    "Above 0 goes back to what the readout says, below 0 away from it."
)
DETECTORS = (
    "One thing after the other, validation scenes, training 0 (`runs/evidence/detectors`): CHAIR_i (recall, "
    "tokens acted on). Both signs of alpha, as one helps the one model and the other the other."
)
WORDS = "Greedy answers to the test scenes, training 0 (`runs/evidence/words.json`)."
CURRICULUM = (
    "Both miniatures have their prior where training put it; in none does it move late by itself. One more "
    "curriculum, nearer to that of a real model, is written (`python -m benchmarks.miniature.curriculum`: "
    "text first, with words in the image slots or nothing, then alignment with a frozen decoder, then mild "
    "tuning) and has NOT been trained to its end, so there is no figure of it. In short trials of its first "
    "stage the decoder learned colours from its slots and no nouns. It now has the grounding head of the "
    "other miniatures, which would have to be named beside whatever comes out."
)
