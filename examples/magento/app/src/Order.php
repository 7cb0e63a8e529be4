<?php
namespace Shop;

class Order
{
}
