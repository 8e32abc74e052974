"""The hash of a prepared scan is computed once for each array, and never given to another one."""

import gc

import numpy as np

from med_transfer.finetuning import features
from med_transfer.finetuning.features import tensor_hash


def test_equal_contents_have_one_hash_and_others_their_own():
    one = np.zeros((1, 4, 4, 4), np.float16)
    assert tensor_hash(one) == tensor_hash(one) == tensor_hash(one.copy())
    assert len({tensor_hash(one), tensor_hash(one + 1), tensor_hash(one.reshape(1, 2, 8, 4))}) == 3


def test_an_array_in_the_place_of_one_that_is_gone_has_its_own_hash():
    seen, kept = {}, len(features._HASHES)
    for number in range(200):  # freed and made anew: they often lie at the same place
        array = np.full((1, 4, 4, 4), number, np.float16)
        seen[number] = tensor_hash(array)
        del array
    gc.collect()
    assert len(set(seen.values())) == 200
    assert len(features._HASHES) <= kept
