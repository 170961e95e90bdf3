import polykit.testing

test_contract = polykit.testing.contract("polykit-example")
