"""Every model type of transformers in miniature: can its layers be read, can blocks be left out?"""
