"""The logit response: is it right, what does it cost, and does it choose well?"""
