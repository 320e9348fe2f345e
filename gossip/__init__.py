"""Who is there, and how they are: SWIM with Lifeguard, and each node's signed record.

Entry classes: `swim.Swim` (the machine), `service.Gossip` (its trio shell: publish, view, watch, why).

It observes and tells; it must never move data, place an app or decide who is a member.
"""
