// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

/// @title  One leader for the members of a cluster, deposed by a majority of them.
/// @notice Members are the active peers, TLS_GATEWAY ones too. A leader stands until it stops being a peer, or until
///         `requiredVotes()` = peerCount / 2 + 1 members have voted no confidence in it in the current term. Its successor is the
///         next active token id upward, wrapping; so every member has a turn. Nothing here runs on a clock.
///
///         What "Byzantine" covers: of n = 2f + 1 members, f that vote falsely, vote twice, replay votes or never vote can neither
///         depose a leader that the other f + 1 trust nor keep one that they distrust. A token has one vote in a term, and one
///         withdrawal, however they are sent. What it does not cover: a chain that keeps votes out of its blocks; the contract
///         owner, who can revoke any member and decides on code; a leader that lies about anything but its seat, as long as its
///         members do not vote; members made up by buying tokens, where minting is public; and members that were never the node
///         they are bound to: a sibling that registered first for a token (`registerPeer`) has its vote.
///         Votes are signed by member keys, which no other instance can derive: one instance of an app has one vote.
///
///         A cluster of two cannot depose: f is zero there, and both votes are required. A leader that died keeps its seat until it
///         leaves (its token's owner calls `deactivate`, or the contract owner `revoke`) or a third member joins and both others
///         vote. One vote is not enough on purpose: either of two could then depose the other for ever, alive or not.
/// @dev    Membership counts when it is asked for, not when the vote was cast: leaving takes one's vote along and lowers what is
///         required, which may leave a leader distrusted by enough (`currentLeader()` is zero at once, `electLeader()` replaces it);
///         joining raises it, which may make that same leader stand again, if it was not replaced in between.
interface ILeaderElection {
    /// A term began with a leader. The votes of the term before count no more. With zeros and the present term: a leader that was
    /// distrusted by enough lost the seat, and a search met nothing but stale registrations, so that `electLeader()` is due; term
    /// and votes are as they were.
    event LeaderElected(uint256 indexed tokenId, address indexed leader, uint32 term, uint64 epoch);
    /// A vote of no confidence was cast, or withdrawn (`isNoConfidence` false); `votes` is their number now. Where it reaches
    /// `requiredVotes()` the leader is deposed for good, and LeaderElected follows in the same transaction: of the next leader or,
    /// where 32 stale registrations lie before the next member, of an empty seat.
    event VoteCast(
        uint256 indexed tokenId,
        address indexed voter,
        address indexed target,
        bool isNoConfidence,
        uint32 votes,
        uint32 term,
        uint64 epoch
    );
    /// Peers left together with their KMS root or app id, and their votes cannot be taken back one by one: a new term begins
    /// without any. The leader stays, unless it was one of those peers.
    event VotesLapsed(uint32 term, uint64 epoch);

    error NotAMember(address caller); // no active peer's member address; of two peers with one it votes for the first (castVote)
    error NotLeader(address target, address leader); // votes concern the current leader alone; zero = there is none
    error AlreadyVoted(uint256 tokenId, uint32 term);
    error NoVote(uint256 tokenId, uint32 term); // nothing to withdraw
    error VoteSpent(uint256 tokenId, uint32 term); // voted and withdrew, or voted and left, in this term
    error WrongTerm(uint32 expected, uint32 given);
    error LeaderStands(address leader);
    error NoMembers();

    /// Votes no confidence in the current leader, or withdraws that vote (`isNoConfidence` false). Deposes the leader where the vote
    /// is the last one required, and elects the next in the same transaction. `inTerm` is the term the vote is meant for: where
    /// another has begun meanwhile it reverts with WrongTerm, and so concerns no leader its sender had not seen.
    ///
    /// Sent by a member address. Where a node registered two tokens with one member key this is the vote of the one that registered
    /// first; each votes by signature, whatever the other does. Where the first leaves, the address is NotAMember here until the
    /// other registers again. Emits VoteCast, and LeaderElected where the leader
    /// falls. 60,000 gas where the leader stands, 85,000 where it falls, and up to 6,000 more for each stale registration that
    /// lies before the next member: 271,000 at most.
    function castVote(uint32 inTerm, address target, bool isNoConfidence) external;
    /// As `castVote`, signed (EIP-712) by the member key of an active token:
    /// `Vote(uint256 tokenId,uint32 term,address target,bool isNoConfidence,uint64 deadline)` in the domain of `eip712Domain()`. The
    /// deadline lies at most `MAX_SIGNATURE_VALIDITY()` ahead. A vote that was not submitted stays good until its deadline for as
    /// long as the term lasts and the token's peer has that member key, also where it left and came back in between.
    ///
    /// Sent by anyone. Emits what `castVote` emits. 65,000 gas where the leader stands, 81,000 where it falls, 276,000 at most.
    function castVoteBySig(
        uint256 tokenId,
        uint32 inTerm,
        address target,
        bool isNoConfidence,
        uint64 deadline,
        bytes calldata memberSignature
    ) external;
    /// Elects a leader where none stands: the next active token id upward from the last leader, wrapping; at first the lowest.
    /// Looks at 32 registrations at most; where all of those are stale it returns zero, and the next call goes on from there. A stale
    /// registration is looked at once.
    ///
    /// Sent by anyone; reverts with LeaderStands or NoMembers where there is nothing to do. Emits LeaderElected, also where it
    /// takes the seat from a leader and finds none; nothing where the seat was empty and stays so. 62,000 gas, 79,000 the first
    /// time, and up to 6,000 more for each stale registration: 251,000 at most.
    function electLeader() external returns (address leader);

    /// The member address of the leader that stands, zero if none does.
    function currentLeader() external view returns (address);
    /// The token of the leader that stands, zero if none does.
    function leaderToken() external view returns (uint256);
    /// Votes of no confidence in `target` that count now. Zero for every address but the leader of the current term.
    function noConfidenceCount(address target) external view returns (uint256);
    /// Votes that depose a leader: more than half of the members; of two, both.
    function requiredVotes() external view returns (uint256);
    /// Grows whenever a leader is elected, and when votes lapse; zero at first.
    function term() external view returns (uint32);
}
