"""Conversions between units, each written once. They take numbers or polars expressions alike."""

from typing import TypeVar

import polars as pl

Value = TypeVar("Value", float, pl.Expr)

# Molar mass of glucose 180.156 g/mol and of beta-hydroxybutyrate 104.1 g/mol, per decilitre.
MG_PER_DL_PER_MMOL_GLUCOSE = 18.0156
MG_PER_DL_PER_MMOL_KETONE = 10.41
KILOJOULES_PER_KILOCALORIE = 4.184
KILOGRAMS_PER_POUND = 0.45359237
CENTIMETRES_PER_INCH = 2.54
METRES_PER_MILE = 1609.344
METRES_PER_FOOT = 0.3048
MILLILITRES_PER_US_FLUID_OUNCE = 29.5735295625
MMHG_PER_KILOPASCAL = 7.500616827041697


def glucose_mmol_to_mg(mmol_per_l: Value) -> Value:
    """Glucose in mmol/L as mg/dL."""
    return mmol_per_l * MG_PER_DL_PER_MMOL_GLUCOSE


def glucose_mg_to_mmol(mg_per_dl: Value) -> Value:
    """Glucose in mg/dL as mmol/L."""
    return mg_per_dl / MG_PER_DL_PER_MMOL_GLUCOSE


def ketone_mmol_to_mg(mmol_per_l: Value) -> Value:
    """Beta-hydroxybutyrate in mmol/L as mg/dL."""
    return mmol_per_l * MG_PER_DL_PER_MMOL_KETONE


def ketone_mg_to_mmol(mg_per_dl: Value) -> Value:
    """Beta-hydroxybutyrate in mg/dL as mmol/L."""
    return mg_per_dl / MG_PER_DL_PER_MMOL_KETONE


def glucose_in_mg(value: pl.Expr, unit: pl.Expr) -> pl.Expr:
    """Glucose as mg/dL from values whose UCUM unit stands beside them; null for any other unit."""
    return (
        pl.when(unit == "mg/dL").then(value).when(unit == "mmol/L").then(glucose_mmol_to_mg(value))
    )


def ketone_in_mg(value: pl.Expr, unit: pl.Expr) -> pl.Expr:
    """Ketones as mg/dL from values whose UCUM unit stands beside them; null for any other unit."""
    return (
        pl.when(unit == "mg/dL").then(value).when(unit == "mmol/L").then(ketone_mmol_to_mg(value))
    )


def kilojoules_to_kilocalories(kilojoules: Value) -> Value:
    """Energy in kJ as kcal."""
    return kilojoules / KILOJOULES_PER_KILOCALORIE


def kilocalories_to_kilojoules(kilocalories: Value) -> Value:
    """Energy in kcal as kJ."""
    return kilocalories * KILOJOULES_PER_KILOCALORIE


def pounds_to_kilograms(pounds: Value) -> Value:
    """Mass in avoirdupois pounds as kg."""
    return pounds * KILOGRAMS_PER_POUND


def kilograms_to_grams(kilograms: Value) -> Value:
    """Mass in kg as g."""
    return kilograms * 1000.0


def grams_to_kilograms(grams: Value) -> Value:
    """Mass in g as kg."""
    return grams / 1000.0


def grams_to_milligrams(grams: Value) -> Value:
    """Mass in g as mg."""
    return grams * 1000.0


def millimetres_to_metres(millimetres: Value) -> Value:
    """Length in mm as m."""
    return millimetres / 1000.0


def millimetres_to_centimetres(millimetres: Value) -> Value:
    """Length in mm as cm."""
    return millimetres / 10.0


def metres_to_centimetres(metres: Value) -> Value:
    """Length in m as cm."""
    return metres * 100.0


def inches_to_centimetres(inches: Value) -> Value:
    """Length in inches as cm."""
    return inches * CENTIMETRES_PER_INCH


def feet_to_metres(feet: Value) -> Value:
    """Length in feet as m."""
    return feet * METRES_PER_FOOT


def miles_to_metres(miles: Value) -> Value:
    """Length in statute miles as m."""
    return miles * METRES_PER_MILE


def fluid_ounces_to_millilitres(ounces: Value) -> Value:
    """Volume in US fluid ounces as mL."""
    return ounces * MILLILITRES_PER_US_FLUID_OUNCE


def fahrenheit_to_celsius(fahrenheit: Value) -> Value:
    """Temperature in °F as °C."""
    return (fahrenheit - 32.0) / 1.8


def kilopascals_to_mmhg(kilopascals: Value) -> Value:
    """Pressure in kPa as mmHg."""
    return kilopascals * MMHG_PER_KILOPASCAL


def fraction_to_percent(fraction: Value) -> Value:
    """Percent of a share told as a fraction of one."""
    return fraction * 100.0
